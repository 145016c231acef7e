"""Vim with UperNet on ADE20K (seg/ of the official repository at dd0358a), 60,000 iterations of 4 × 8 crops of 512.

Published (arXiv 2401.09417, table 2): Vim-Ti 41.0 mIoU (40.2 in its first version), 13 M; Vim-S 44.9 mIoU, 46 M.

    torchrun --standalone --nproc_per_node=4 -m mixerzoo.tasks.cli \\
        train segmentation/upernet_vim_ade20k --backbone vim_tiny --data ADE

Blocks 5, 11, 17 and 23, as many channels in the head as in the network, tested in windows of 512 every 341 pixels.
Vim-Ti: AdamW 2e-4, weight decay 0.1. Vim-S: AdamW 1e-4, weight decay 0.05, layer decay 0.95 (which the official code
meant and, by a wrong key, did not apply). The pyramid is ViTDet's, not the official one (twice as wide at the finer
levels).
"""

_base_ = "upernet_ade20k.py"

backbone = "vim_tiny"
_vim = dict(
    out_indices=[5, 11, 17, 23],
    pyramid=True,
    norm_outputs=False,
    init_cfg=dict(type="Pretrained", checkpoint="timm"),
)
backbones = dict(
    _delete_=True,
    vim_tiny=dict(name="vim_tiny_patch16_224", drop_path_rate=0.0, **_vim),
    vim_small=dict(
        name="vim_small_patch16_224",
        drop_path_rate=0.05,
        **_vim,
        cfg=dict(
            model=dict(
                decode_head=dict(in_channels=[96, 192, 384, 384], channels=384), auxiliary_head=dict(in_channels=384)
            ),
            optim_wrapper=dict(optimizer=dict(lr=1e-4, weight_decay=0.05, layer_decay=0.95)),
        ),
    ),
)
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    backbone=backbones[backbone],
    decode_head=dict(in_channels=[48, 96, 192, 192], channels=192),
    auxiliary_head=dict(in_channels=192),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)

train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=60000, val_interval=6000)
default_hooks = dict(checkpoint=dict(interval=6000))
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=0.1))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=60000),
]
