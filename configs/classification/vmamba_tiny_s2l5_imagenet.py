"""VMamba-T[s2l5] on ImageNet; published: 82.5 % top-1 at 224×224.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vmamba_tiny_s2l5_imagenet --data IMAGENET
"""

_base_ = "_base_/vmamba_imagenet.py"
model = {"net": {"name": "vmamba_tiny_s2l5", "drop_path_rate": 0.2}}
