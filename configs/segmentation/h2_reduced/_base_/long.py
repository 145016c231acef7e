"""Long sequences: pictures of 384×384, 576 tokens at stride 16.

    python -m mixerzoo.tasks.detection.composed --out data/composed_384 --images 640 --val-images 40 --size 384 \\
        --items 144 208 --sides 18 32
"""

_base_ = "reduced.py"
analyze_sizes = ((384, 384),)
_root = "data/composed_384/ade/ADEChallengeData2016"
train_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
val_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
test_dataloader = val_dataloader
