"""The controlled family on short sequences: 128×128, so 1024, 256, 64 and 16 tokens in the four stages.

MambaOut calls a sequence long where L > 6D (arXiv 2405.07992, section 3.1). Femto's stages have 48, 96, 192
and 288 channels: L / 6D is 3.6, 0.4, 0.06 and 0.01, and most blocks are in the third stage.

    python -m mixerzoo.tasks.detection.composed --out data/composed_128 --images 4000 --val-images 400 --size 128
"""

_base_ = ["composed.py", "composed_schedule.py"]
model = {
    "backbone": {"depths": (1, 1, 3, 1)},
    "decode_head": {"in_channels": [48, 96, 192, 288]},
}
