"""MambaOut-Small on ImageNet; published: 84.1 % top-1 at 224×224.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/mambaout_small_gatedcnn_imagenet --data IMAGENET
"""

_base_ = "_base_/mambaout_imagenet.py"
model = {"net": {"name": "mambaout_small_gatedcnn", "drop_path_rate": 0.4}}
