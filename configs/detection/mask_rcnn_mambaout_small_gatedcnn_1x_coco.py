"""Mask R-CNN with MambaOut-Small, 1×; published (arXiv 2405.07992, table 2): 65 M, 354 GMACs, box AP 47.4, mask AP
42.7.

Drop path is that of the ImageNet training: the paper names none for detection.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_mambaout_small_gatedcnn_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = {
    "backbone": {
        "name": "mambaout_small_gatedcnn",
        "norm_outputs": True,
        "drop_path_rate": 0.4,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [96, 192, 384, 576]},
}
