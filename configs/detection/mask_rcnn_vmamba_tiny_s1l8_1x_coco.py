"""Mask R-CNN with VMamba-T[s1l8], 1×; published (README of the official repository at 2ed52ea): 50 M parameters, 271
GMACs at 1280×800, box AP 47.3, mask AP 42.7.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vmamba_tiny_s1l8_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = {
    "backbone": {
        "name": "vmamba_tiny_s1l8",
        "norm_outputs": True,
        "drop_path_rate": 0.2,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 768]},
}
