"""Mask R-CNN with VMamba-S[s2l15], 1×; published (README of the official repository at 2ed52ea): 70 M, 384 GMACs, box
AP 48.7, mask AP 43.7.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vmamba_small_s2l15_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = {
    "backbone": {
        "name": "vmamba_small_s2l15",
        "norm_outputs": True,
        "drop_path_rate": 0.3,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 768]},
}
