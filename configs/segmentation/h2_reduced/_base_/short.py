"""Short sequences: pictures of 96×96, 36 tokens at stride 16.

    python -m mixerzoo.tasks.detection.composed --out data/composed_96_reduced --images 10240 --val-images 640 \\
        --size 96 --items 9 13 --sides 18 32
"""

_base_ = "reduced.py"
analyze_sizes = ((96, 96),)
_root = "data/composed_96_reduced/ade/ADEChallengeData2016"
train_dataloader = dict(batch_size=16, dataset=dict(data_root=_root))
val_dataloader = dict(batch_size=16, dataset=dict(data_root=_root))
test_dataloader = val_dataloader
