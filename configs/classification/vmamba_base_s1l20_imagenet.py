"""VMamba-B[s1l20] on ImageNet; published: 83.8 % top-1 at 224×224.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vmamba_base_s1l20_imagenet --data IMAGENET
"""

_base_ = "_base_/vmamba_imagenet.py"
model = dict(net=dict(name="vmamba_base_s1l20", drop_path_rate=0.5))
