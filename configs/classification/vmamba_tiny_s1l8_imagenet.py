"""VMamba-T[s1l8] on ImageNet; published: 82.6 % top-1 at 224×224.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vmamba_tiny_s1l8_imagenet --data IMAGENET
"""

_base_ = "_base_/vmamba_imagenet.py"
model = {"net": {"name": "vmamba_tiny_s1l8", "drop_path_rate": 0.2}}
