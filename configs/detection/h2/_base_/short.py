"""Hypothesis 2 on short sequences: pictures of 96×96, 36 tokens at stride 16 and 9 at stride 32; see `long.py`.

    python -m mixerzoo.tasks.detection.composed --out data/composed_96 --images 51200 --val-images 2560 --size 96 \\
        --items 9 13 --sides 18 32
"""

_base_ = "network.py"
_root = "data/composed_96/coco"
_proposals = dict(nms_pre=100, max_per_img=50)
model = dict(
    train_cfg=dict(
        rpn=dict(sampler=dict(num=36)),
        rpn_proposal=_proposals,
        rcnn=dict(sampler=dict(num=16)),
    ),
    test_cfg=dict(rpn=_proposals, rcnn=dict(max_per_img=50)),
)
train_dataloader = dict(batch_size=64, dataset=dict(data_root=_root))
val_dataloader = dict(batch_size=64, dataset=dict(data_root=_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f"{_root}/annotations/instances_val2017.json")
test_evaluator = val_evaluator
analyze_sizes = [(96, 96)]
