"""Mask R-CNN with MambaOut-Base, 1×; published (arXiv 2405.07992, table 2): 100 M, 495 GMACs, box AP 47.4, mask AP
43.0.

Drop path is that of the ImageNet training: the paper names none for detection.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_mambaout_base_gatedcnn_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = dict(
    backbone=dict(
        name="mambaout_base_gatedcnn",
        norm_outputs=True,
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
