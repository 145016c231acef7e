"""Mask R-CNN with Swin-T (arXiv 2103.14030; timm's network), 1×; as cited in MambaOut (arXiv 2405.07992, table 2): 48 M
parameters, 267 GMACs, box AP 42.7, mask AP 39.3.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_swin_tiny_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = {
    "backbone": {
        "name": "swin_tiny_patch4_window7_224.ms_in1k",
        "norm_outputs": True,
        "drop_path_rate": 0.2,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 768]},
}
