"""Hypothesis 2 of MambaOut (arXiv 2405.07992) in detection: does a long sequence gain from a state-space model?

Not run here in full; detection_h2_reduced, which a CPU can do, was.

    python -m mixerzoo.tasks.synthetic.composed --out data/composed_96 --images 51200 --val-images 2560 --size 96 \\
        --items 9 13 --sides 18 32
    python -m mixerzoo.tasks.synthetic.composed --out data/composed_768 --images 800 --val-images 40 --size 768 \\
        --items 576 832 --sides 18 32
    mixerzoo experiment detection_h2 --runs runs/h2_detection

Nine token mixers on short sequences (pictures of 96×96: 36 tokens at stride 16) and on long ones (768×768: 2304
tokens, twice the L = 6D of its 192 channels). A step sees 768² = 64 × 96² pixels with about 700 items of 18 to 32
pixels, on one long sequence or on 64 short ones; as many samples are taken and detections kept of an area; nothing
else differs. AP50 ranks, as it counts all detections: COCO's AP takes 100 a picture at most."""

_base_ = "../detection/mask_rcnn_composed.py"

headline = dict(
    metric="coco/bbox_mAP_50",
    label="box AP50",
    best="highest",
    others={"_delete_": True, "coco/segm_mAP_50": "mask AP50"},
    groups=["_short", "_long"],
)

seeds = 3
_mixers = ("attn", "attn_causal", "bis6", "gatedcnn", "identity", "pool", "s6", "ss2d", "ssd")


def _data(root, batch_size, **evaluator):
    loader = dict(batch_size=batch_size, dataset=dict(data_root=root))
    figures = dict(ann_file=f"{root}/annotations/instances_val2017.json", **evaluator)
    return dict(
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=figures,
        test_evaluator=figures,
    )


def _detections(size, samples, proposals):
    kept = dict(nms_pre=2 * proposals, max_per_img=proposals)
    training = dict(
        rpn=dict(sampler=dict(num=samples)),
        rpn_proposal=kept,
        rcnn=dict(sampler=dict(num=samples * 4 // 9)),
    )
    testing = dict(rpn=kept, rcnn=dict(max_per_img=proposals))
    return dict(model=dict(train_cfg=training, test_cfg=testing), analyze_sizes=[(size, size)])


grid = dict(
    backbone={mixer: f"mambaout_femto_{mixer}" for mixer in _mixers},
    length=dict(
        short=dict(**_data("data/composed_96/coco", 64), **_detections(96, samples=36, proposals=50)),
        long=dict(
            **_data("data/composed_768/coco", 1, proposal_nums=(100, 1000, 3200)),
            **_detections(768, samples=2304, proposals=3200),
        ),
    ),
)
