"""Hypothesis 2 on long sequences: pictures of 768×768, 2304 tokens at stride 16, twice the L = 6D of its 192 channels.

Items are as large as on the short ones; there are more of them. The same number of items is seen in training.

    python -m mixerzoo.tasks.detection.composed --out data/composed_768 --images 400 --val-images 100 --size 768 \\
        --items 8 32 --sides 20 192
"""

_base_ = "../../upernet_mambaout_femto_gatedcnn_composed.py"
analyze_sizes = ((768, 768),)
_root = "data/composed_768/ade/ADEChallengeData2016"
train_dataloader = {"batch_size": 2, "dataset": {"data_root": _root}}
val_dataloader = {"batch_size": 1, "dataset": {"data_root": _root}}
test_dataloader = val_dataloader
