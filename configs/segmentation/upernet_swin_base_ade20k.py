"""Swin-Base (timm's) with UperNet on ADE20K.

mmseg's swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512: AdamW 6e-5, drop path 0.3. Published
(arXiv 2103.14030; for the base size its repository): 48.1 / 49.7 mIoU (single / multi-scale), 121 M, 1188 G.

    mixerzoo train segmentation/upernet_swin_base_ade20k
"""

_base_ = [
    "_base_/upernet.py",
    "_base_/ade20k.py",
    "_base_/schedule_160k.py",
]
optim_wrapper = dict(optimizer=dict(lr=6e-5))
model = dict(
    backbone=dict(
        name="swin_base_patch4_window7_224.ms_in1k",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
