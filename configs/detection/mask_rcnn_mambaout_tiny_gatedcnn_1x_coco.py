"""Mask R-CNN with MambaOut-Tiny, 1×; published (arXiv 2405.07992, table 2): 43 M parameters, 262 GMACs at 1280×800, box
AP 45.1, mask AP 41.0.

Drop path is that of the ImageNet training: the paper names none for detection.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_mambaout_tiny_gatedcnn_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = {
    "backbone": {
        "name": "mambaout_tiny_gatedcnn",
        "norm_outputs": True,
        "drop_path_rate": 0.2,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 576]},
}
