"""Long sequences: pictures of 384×384, 576 tokens at stride 16.

    python -m mixerzoo.tasks.detection.composed --out data/composed_384 --images 640 --val-images 40 \\
        --size 384 --items 144 208 --sides 18 32
"""

_base_ = "reduced.py"
_root = "data/composed_384/coco"
_proposals = {"nms_pre": 1600, "max_per_img": 800}
model = {
    "train_cfg": {
        "rpn": {"sampler": {"num": 576}},
        "rpn_proposal": _proposals,
        "rcnn": {"sampler": {"num": 256}},
    },
    "test_cfg": {"rpn": _proposals, "rcnn": {"max_per_img": 800}},
}
train_dataloader = {"batch_size": 1, "dataset": {"data_root": _root}}
val_dataloader = {"batch_size": 1, "dataset": {"data_root": _root}}
test_dataloader = val_dataloader
val_evaluator = {"ann_file": f"{_root}/annotations/instances_val2017.json"}
test_evaluator = val_evaluator
analyze_sizes = [(384, 384)]
