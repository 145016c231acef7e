"""Mask R-CNN with Swin-S (arXiv 2103.14030; timm's network), 3× with multiple scales.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_swin_small_3x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_3x.py"
model = {
    "backbone": {
        "name": "swin_small_patch4_window7_224.ms_in1k",
        "norm_outputs": True,
        "drop_path_rate": 0.2,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 768]},
}
