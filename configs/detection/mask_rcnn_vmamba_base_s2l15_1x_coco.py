"""Mask R-CNN with VMamba-B[s2l15], 1×; published (README of the official repository at 2ed52ea): 108 M, 485 GMACs, box
AP 49.2, mask AP 44.1.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vmamba_base_s2l15_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = dict(
    backbone=dict(
        name="vmamba_base_s2l15",
        norm_outputs=True,
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
