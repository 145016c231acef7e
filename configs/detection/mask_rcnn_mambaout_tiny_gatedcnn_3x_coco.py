"""Mask R-CNN with MambaOut-Tiny, 3× with multiple scales; the paper has no such figures.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_mambaout_tiny_gatedcnn_3x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_3x.py"
model = {
    "backbone": {
        "name": "mambaout_tiny_gatedcnn",
        "norm_outputs": True,
        "drop_path_rate": 0.2,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 576]},
}
