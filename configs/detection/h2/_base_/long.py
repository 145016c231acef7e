"""Hypothesis 2 on long sequences: pictures of 768×768, 2304 tokens at stride 16, twice the L = 6D of its 192 channels.

A step sees 768² = 64 × 96² pixels with about 700 items of 18 to 32 pixels, here on one long sequence, in `short.py` on
64 short ones; nothing else differs. As many samples are taken and detections kept of an area.

    python -m mixerzoo.tasks.detection.composed --out data/composed_768 --images 800 --val-images 40 --size 768 \\
        --items 576 832 --sides 18 32
"""

_base_ = "network.py"
_root = "data/composed_768/coco"
_proposals = {"nms_pre": 6400, "max_per_img": 3200}
model = {
    "train_cfg": {
        "rpn": {"sampler": {"num": 2304}},
        "rpn_proposal": _proposals,
        "rcnn": {"sampler": {"num": 1024}},
    },
    "test_cfg": {"rpn": _proposals, "rcnn": {"max_per_img": 3200}},
}
train_dataloader = {"batch_size": 1, "dataset": {"data_root": _root}}
val_dataloader = {"batch_size": 1, "dataset": {"data_root": _root}}
test_dataloader = val_dataloader
val_evaluator = {"ann_file": f"{_root}/annotations/instances_val2017.json", "proposal_nums": (100, 1000, 3200)}
test_evaluator = val_evaluator
analyze_sizes = [(768, 768)]
