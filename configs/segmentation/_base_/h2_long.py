"""The controlled family on long sequences: 640×640, so 25600, 6400, 1600 and 400 tokens in the four stages.

L / 6D (see h2_short.py) is 89, 11, 1.4 and 0.2: by MambaOut's criterion three of the four stages are long, and with
them five of six blocks. The items are as large in pixels as on the short canvas, and there are as many per area.

    python -m mixerzoo.tasks.detection.composed --out data/composed_640 --images 4000 --val-images 400 --size 640 \
        --sides 16 64 --items 50 200
"""

_base_ = "h2_short.py"
_root = "data/composed_640/ade/ADEChallengeData2016"
train_dataloader = {"dataset": {"data_root": _root}}
val_dataloader = {"dataset": {"data_root": _root}}
test_dataloader = val_dataloader
