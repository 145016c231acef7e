"""A small Mask R-CNN with MambaOut-Femto (fewer blocks) on composed pictures, from scratch.

mixerzoo train detection/mask_rcnn_mambaout_femto_gatedcnn_composed
"""

_base_ = "_base_/mask_rcnn_composed.py"
model = {
    "backbone": {"name": "mambaout_femto_gatedcnn", "depths": (1, 1, 3, 1)},
    "neck": {"in_channels": [48, 96, 192, 288]},
}
