"""Vim-S on ImageNet; published: 80.5 % top-1 (arXiv 2401.09417; scripts of the official repository at dd0358a).

DeiT's recipe but for batch 512 (8 processes × 64) at the same rate, and stochastic depth 0.05.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vim_small_imagenet --data IMAGENET
"""

_base_ = "_base_/deit_imagenet.py"
auto_scale_lr = {"base_batch_size": 512}
train_dataloader = {"batch_size": 64}
model = {"net": {"name": "vim_small_patch16_224", "drop_path_rate": 0.05}}
