"""Vim on ImageNet at 224×224 (arXiv 2401.09417; scripts of the official repository at dd0358a).

Published top-1 (arXiv 2401.09417, table 1): Vim-Ti 76.1 %, Vim-S 80.5 %.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vim_imagenet --backbone vim_tiny --data IMAGENET

DeiT's recipe. Vim-Ti: batch 1024 (8 processes × 128), weight decay 0.1, no stochastic depth, no mixed precision. Vim-S:
batch 512 (8 processes × 64) at the same rate, weight decay 0.05, stochastic depth 0.05.
"""

_base_ = "deit_imagenet.py"

backbone = "vim_tiny"
backbones = dict(
    _delete_=True,
    vim_tiny=dict(name="vim_tiny_patch16_224", drop_path_rate=0.0),
    vim_small=dict(
        name="vim_small_patch16_224",
        drop_path_rate=0.05,
        cfg=dict(
            auto_scale_lr=dict(base_batch_size=512),
            train_dataloader=dict(batch_size=64),
            optim_wrapper=dict(optimizer=dict(weight_decay=0.05)),
        ),
    ),
)
model = dict(net=backbones[backbone])
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
