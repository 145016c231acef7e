"""Hypothesis 2 on long sequences: pictures of 768×768, 2304 tokens at stride 16, twice the L = 6D of its 192 channels.

A step sees 768² = 64 × 96² pixels with about 700 items of 18 to 32 pixels, here on one long sequence, in `short.py` on
64 short ones; nothing else differs.

    python -m mixerzoo.tasks.detection.composed --out data/composed_768 --images 800 --val-images 40 --size 768 \\
        --items 576 832 --sides 18 32
"""

_base_ = "network.py"
analyze_sizes = ((768, 768),)
_root = "data/composed_768/ade/ADEChallengeData2016"
train_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
val_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
test_dataloader = val_dataloader
