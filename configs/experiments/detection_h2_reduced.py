"""Hypothesis 2 of MambaOut (arXiv 2405.07992) in detection, for a CPU: detection_h2 at half the width.

Measured here: benchmarks/results/h2_detection_amd_epyc.json.

    python -m mixerzoo.tasks.synthetic.composed --out data/composed_96_reduced --images 10240 --val-images 640 \\
        --size 96 --items 9 13 --sides 18 32
    python -m mixerzoo.tasks.synthetic.composed --out data/composed_384 --images 640 --val-images 40 --size 384 \\
        --items 144 208 --sides 18 32
    mixerzoo experiment detection_h2_reduced --runs runs/h2_detection_reduced

A step sees 384² = 16 × 96² pixels with about 176 items of 18 to 32 pixels, once on one long sequence (576 tokens at
stride 16) and once on 16 short ones (36 tokens); nothing else differs. At stride 16 the networks have D = 72, so
6D = 432 tokens lie between the two. As many detections are kept of an area.
"""

_base_ = "detection_h2.py"

_channels = [24, 48, 72, 96]
model = dict(backbone=dict(dims=_channels), neck=dict(in_channels=_channels))
train_cfg = dict(max_epochs=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=64),
    dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False, begin=64),
]


def _data(root, batch_size):
    loader = dict(batch_size=batch_size, dataset=dict(data_root=root))
    figures = dict(ann_file=f"{root}/annotations/instances_val2017.json")
    return dict(
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=figures,
        test_evaluator=figures,
    )


_kept = dict(nms_pre=1600, max_per_img=800)
_training = dict(rpn=dict(sampler=dict(num=576)), rpn_proposal=_kept, rcnn=dict(sampler=dict(num=256)))
_testing = dict(rpn=_kept, rcnn=dict(max_per_img=800))
_mixers = ("attn", "gatedcnn", "identity", "s6", "ss2d")
grid = dict(
    backbone=dict(_delete_=True, **{mixer: f"mambaout_femto_{mixer}" for mixer in _mixers}),
    length=dict(
        short=_data("data/composed_96_reduced/coco", 16),
        long=dict(
            _delete_=True,
            **_data("data/composed_384/coco", 1),
            model=dict(train_cfg=_training, test_cfg=_testing),
            analyze_sizes=[(384, 384)],
        ),
    ),
)
