"""Hypothesis 2 on long sequences: pictures of 768×768, 2304 tokens at stride 16, twice the L = 6D of its 192 channels.

A step sees 768² = 64 × 96² pixels with about 700 items of 18 to 32 pixels, here on one long sequence, in `short.py` on
64 short ones; nothing else differs. As many samples are taken and detections kept of an area.

    python -m mixerzoo.tasks.detection.composed --out data/composed_768 --images 800 --val-images 40 --size 768 \\
        --items 576 832 --sides 18 32
"""

_base_ = "network.py"
_root = "data/composed_768/coco"
_proposals = dict(nms_pre=6400, max_per_img=3200)
model = dict(
    train_cfg=dict(
        rpn=dict(sampler=dict(num=2304)),
        rpn_proposal=_proposals,
        rcnn=dict(sampler=dict(num=1024)),
    ),
    test_cfg=dict(rpn=_proposals, rcnn=dict(max_per_img=3200)),
)
train_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
val_dataloader = dict(batch_size=1, dataset=dict(data_root=_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f"{_root}/annotations/instances_val2017.json", proposal_nums=(100, 1000, 3200))
test_evaluator = val_evaluator
analyze_sizes = [(768, 768)]
