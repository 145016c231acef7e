"""A small Mask R-CNN with a VMamba of femto width (48 channels) and fewer blocks on composed pictures, from scratch.

mixerzoo train detection/mask_rcnn_vmamba_femto_composed
"""

_base_ = "_base_/mask_rcnn_composed.py"
model = {
    "backbone": {"name": "vmamba_tiny_s1l8", "depths": (1, 1, 3, 1), "dims": (48, 96, 192, 288)},
    "neck": {"in_channels": [48, 96, 192, 288]},
}
