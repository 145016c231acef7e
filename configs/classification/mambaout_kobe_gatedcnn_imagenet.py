"""MambaOut-Kobe on ImageNet; published: 80.0 % top-1 at 224×224.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/mambaout_kobe_gatedcnn_imagenet --data IMAGENET
"""

_base_ = "_base_/mambaout_imagenet.py"
model = {"net": {"name": "mambaout_kobe_gatedcnn", "drop_path_rate": 0.025}}
