"""A VMamba of MambaOut-Femto's size and a narrow UperNet, from scratch on the composed set (its command is in
_base_/composed.py).

    mixerzoo train segmentation/upernet_vmamba_femto_composed
"""

_base_ = [
    "_base_/composed.py",
    "_base_/composed_schedule.py",
]
model = {
    "backbone": {"name": "vmamba_tiny_s1l8", "dims": (48, 96, 192, 288), "depths": (1, 1, 3, 1)},
    "decode_head": {"in_channels": [48, 96, 192, 288]},
    "auxiliary_head": {"in_channels": 192},
}
