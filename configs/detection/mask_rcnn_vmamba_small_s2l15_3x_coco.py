"""Mask R-CNN with VMamba-S[s2l15], 3× with multiple scales; published (README of the official repository at 2ed52ea):
box and mask AP 49.9 and 44.2.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vmamba_small_s2l15_3x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_3x.py"
model = {
    "backbone": {
        "name": "vmamba_small_s2l15",
        "norm_outputs": True,
        "drop_path_rate": 0.3,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 768]},
}
