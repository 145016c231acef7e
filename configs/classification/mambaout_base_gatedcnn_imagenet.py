"""MambaOut-Base on ImageNet; published: 84.2 % top-1 at 224×224.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/mambaout_base_gatedcnn_imagenet --data IMAGENET
"""

_base_ = "_base_/mambaout_imagenet.py"
model = dict(net=dict(name="mambaout_base_gatedcnn", drop_path_rate=0.6))
