"""VMamba-B[s2l15] with UperNet on ADE20K.

segmentation/configs/vssm1 of the official repository at 2ed52ea: Swin's configuration (AdamW 6e-5, batch 4 × 4), drop
path 0.6. Published there: 51.0 / 51.6 mIoU (single / multi-scale), 122 M, 1170 G.

    mixerzoo train segmentation/upernet_vmamba_base_s2l15_ade20k
"""

_base_ = [
    "_base_/upernet.py",
    "_base_/ade20k.py",
    "_base_/schedule_160k.py",
]
optim_wrapper = dict(optimizer=dict(lr=6e-5))
model = dict(
    backbone=dict(
        name="vmamba_base_s2l15",
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
