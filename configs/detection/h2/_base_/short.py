"""Hypothesis 2 on short sequences: pictures of 96×96, 36 tokens at stride 16 and 9 at stride 32.

    python -m mixerzoo.tasks.detection.composed --out data/composed_96 --images 4000 --val-images 400 --size 96 \\
        --items 1 3 --sides 20 48
"""

_base_ = "../../mask_rcnn_mambaout_femto_gatedcnn_composed.py"
_root = "data/composed_96/coco"
train_dataloader = {"dataset": {"data_root": _root}}
val_dataloader = {"dataset": {"data_root": _root}}
test_dataloader = val_dataloader
val_evaluator = {"ann_file": f"{_root}/annotations/instances_val2017.json"}
test_evaluator = val_evaluator
