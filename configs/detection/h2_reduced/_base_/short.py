"""Short sequences: pictures of 96×96, 36 tokens at stride 16.

    python -m mixerzoo.tasks.detection.composed --out data/composed_96_reduced --images 10240 --val-images 640 \\
        --size 96 --items 9 13 --sides 18 32
"""

_base_ = "reduced.py"
_root = "data/composed_96_reduced/coco"
_proposals = {"nms_pre": 100, "max_per_img": 50}
model = {
    "train_cfg": {
        "rpn": {"sampler": {"num": 36}},
        "rpn_proposal": _proposals,
        "rcnn": {"sampler": {"num": 16}},
    },
    "test_cfg": {"rpn": _proposals, "rcnn": {"max_per_img": 50}},
}
train_dataloader = {"batch_size": 16, "dataset": {"data_root": _root}}
val_dataloader = {"batch_size": 16, "dataset": {"data_root": _root}}
test_dataloader = val_dataloader
val_evaluator = {"ann_file": f"{_root}/annotations/instances_val2017.json"}
test_evaluator = val_evaluator
analyze_sizes = [(96, 96)]
