"""Mask R-CNN with Swin-B (arXiv 2103.14030; timm's network), 1×; as cited in MambaOut (arXiv 2405.07992, table 2): 107
M, 496 GMACs, box AP 46.9, mask AP 42.3.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_swin_base_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = dict(
    backbone=dict(
        name="swin_base_patch4_window7_224.ms_in1k",
        norm_outputs=True,
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
