"""The DPT head on the small VMamba, fine-tuned from rendered rooms on the castel frames.

    mixerzoo train depth/vmamba_nano_castel --data data/castel \\
        --cfg-options load_from=RUN/epoch_N.pth
"""

_base_ = "_base_/castel.py"
model = {"net": {"name": "vmamba_tiny_s1l8", "dims": (32, 64, 128, 256), "depths": (1, 1, 4, 1)}}
