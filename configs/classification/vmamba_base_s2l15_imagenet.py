"""VMamba-B[s2l15] on ImageNet; published: 83.9 % top-1 at 224×224.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vmamba_base_s2l15_imagenet --data IMAGENET
"""

_base_ = "_base_/vmamba_imagenet.py"
model = dict(net=dict(name="vmamba_base_s2l15", drop_path_rate=0.6))
