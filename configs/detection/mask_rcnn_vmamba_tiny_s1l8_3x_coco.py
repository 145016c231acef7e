"""Mask R-CNN with VMamba-T[s1l8], 3× with multiple scales; published (README of the official repository at 2ed52ea):
box and mask AP 48.8 and 43.7.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vmamba_tiny_s1l8_3x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_3x.py"
model = {
    "backbone": {
        "name": "vmamba_tiny_s1l8",
        "norm_outputs": True,
        "drop_path_rate": 0.2,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 768]},
}
