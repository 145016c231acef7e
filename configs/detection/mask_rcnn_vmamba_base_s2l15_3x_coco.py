"""Mask R-CNN with VMamba-B[s2l15], 3× with multiple scales; no figures are published.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vmamba_base_s2l15_3x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_3x.py"
model = dict(
    backbone=dict(
        name="vmamba_base_s2l15",
        norm_outputs=True,
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
