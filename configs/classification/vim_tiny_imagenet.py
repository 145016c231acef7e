"""Vim-Ti on ImageNet; published: 76.1 % top-1 (arXiv 2401.09417; scripts of the official repository at dd0358a).

DeiT's recipe at batch 1024 (8 processes × 128) but for weight decay 0.1 and no stochastic depth; no mixed precision.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vim_tiny_imagenet --data IMAGENET
"""

_base_ = "_base_/deit_imagenet.py"
optim_wrapper = {"optimizer": {"weight_decay": 0.1}}
model = {"net": {"name": "vim_tiny_patch16_224", "drop_path_rate": 0.0}}
