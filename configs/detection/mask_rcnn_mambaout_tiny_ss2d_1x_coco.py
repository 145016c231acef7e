"""Mask R-CNN with MambaOut-Tiny whose token mixer is SS2D, 1×; only the mixer differs from
mask_rcnn_mambaout_tiny_gatedcnn_1x_coco. Nobody publishes weights: give those of an ImageNet training with
--cfg-options model.backbone.checkpoint=FILE.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_mambaout_tiny_ss2d_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = {
    "backbone": {
        "name": "mambaout_tiny_ss2d",
        "norm_outputs": True,
        "drop_path_rate": 0.2,
    },
    "neck": {"in_channels": [96, 192, 384, 576]},
}
