"""Long sequences: pictures of 384×384, 576 tokens at stride 16.

    python -m mixerzoo.tasks.detection.composed --out data/composed_384 --images 640 --val-images 40 \\
        --size 384 --items 144 208 --sides 18 32
"""

_base_ = "reduced.py"
_root = "data/composed_384/coco"
_proposals = dict(nms_pre=1600, max_per_img=800)
model = dict(
    train_cfg=dict(
        rpn=dict(sampler=dict(num=576)),
        rpn_proposal=_proposals,
        rcnn=dict(sampler=dict(num=256)),
    ),
    test_cfg=dict(rpn=_proposals, rcnn=dict(max_per_img=800)),
)
train_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
val_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f"{_root}/annotations/instances_val2017.json")
test_evaluator = val_evaluator
analyze_sizes = [(384, 384)]
