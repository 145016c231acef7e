"""Hypothesis 2 on short sequences: pictures of 96×96, 36 tokens at stride 16, where most blocks are; see `long.py`.

MambaOut calls a sequence of L tokens long where L > 6D (arXiv 2405.07992, section 3.1); at stride 16 Femto has D = 192.

    python -m mixerzoo.tasks.detection.composed --out data/composed_96 --images 51200 --val-images 2560 --size 96 \\
        --items 9 13 --sides 18 32
"""

_base_ = "network.py"
analyze_sizes = ((96, 96),)
_root = "data/composed_96/ade/ADEChallengeData2016"
train_dataloader = dict(batch_size=64, dataset=dict(data_root=_root))
val_dataloader = dict(batch_size=64, dataset=dict(data_root=_root))
test_dataloader = val_dataloader
