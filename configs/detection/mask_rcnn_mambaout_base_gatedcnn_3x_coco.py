"""Mask R-CNN with MambaOut-Base, 3× with multiple scales; the paper has no such figures.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_mambaout_base_gatedcnn_3x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_3x.py"
model = dict(
    backbone=dict(
        name="mambaout_base_gatedcnn",
        norm_outputs=True,
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
