"""MambaOut-Femto with fewer blocks and a narrow UperNet, from scratch on the composed set (its command is in
_base_/composed.py).

    mixerzoo train segmentation/upernet_mambaout_femto_gatedcnn_composed
"""

_base_ = [
    "_base_/composed.py",
    "_base_/composed_schedule.py",
]
model = {
    "backbone": {"name": "mambaout_femto_gatedcnn", "depths": (1, 1, 3, 1)},
    "decode_head": {"in_channels": [48, 96, 192, 288]},
    "auxiliary_head": {"in_channels": 192},
}
