"""Hypothesis 2 on short sequences: pictures of 96×96, 36 tokens at stride 16 and 9 at stride 32; see `long.py`.

    python -m mixerzoo.tasks.detection.composed --out data/composed_96 --images 51200 --val-images 2560 --size 96 \\
        --items 9 13 --sides 18 32
"""

_base_ = "network.py"
_root = "data/composed_96/coco"
_proposals = {"nms_pre": 100, "max_per_img": 50}
model = {
    "train_cfg": {
        "rpn": {"sampler": {"num": 36}},
        "rpn_proposal": _proposals,
        "rcnn": {"sampler": {"num": 16}},
    },
    "test_cfg": {"rpn": _proposals, "rcnn": {"max_per_img": 50}},
}
train_dataloader = {"batch_size": 64, "dataset": {"data_root": _root}}
val_dataloader = {"batch_size": 64, "dataset": {"data_root": _root}}
test_dataloader = val_dataloader
val_evaluator = {"ann_file": f"{_root}/annotations/instances_val2017.json"}
test_evaluator = val_evaluator
analyze_sizes = [(96, 96)]
