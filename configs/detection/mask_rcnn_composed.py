"""A small Mask R-CNN from scratch on small pictures composed of Fashion-MNIST's items, for one CPU core.

Measured here (benchmarks/results/composed_detection_amd_epyc.json): box AP50, AP and mask AP of MambaOut-Femto 0.682,
0.490 and 0.462 after 16 minutes, of the VMamba of its size 0.642, 0.440 and 0.416 after 18.

    python -m mixerzoo.tasks.synthetic.composed --out data/composed_128 --images 4000 --val-images 400 --size 128 \\
        --items 16 24 --sides 18 32
    mixerzoo train detection/mask_rcnn_composed --backbone mambaout_femto_s6

There are a score of items on every picture, as what a network learns in a given time follows from how many it has
seen. They are made 18 to 32 pixels wide. Against `_base_/mask_rcnn.py`: backbones have fewer blocks, pyramid and heads
64 channels with group norm (training from scratch needs a norm everywhere: arXiv 1811.08883), anchors are of 16 to 128
pixels, proposals and samples fewer, RoI levels split at 40 and 80 pixels.
"""

_base_ = ["../_base_/runtime.py", "_base_/detection.py", "_base_/mask_rcnn.py", "_base_/coco.py"]

run_name = "mask_rcnn_{backbone}_composed"
backbone = "mambaout_femto_gatedcnn"
_mixers = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
backbones = dict(
    **{f"mambaout_femto_{mixer}": dict(depths=(1, 1, 3, 1)) for mixer in _mixers},
    vmamba_femto=dict(name="vmamba_tiny_s1l8", depths=(1, 1, 3, 1), dims=(48, 96, 192, 288)),
)

_root = "data/composed_128/coco"
_classes = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_norm = dict(type="GN", num_groups=8, requires_grad=True)
_dataset = dict(data_root=_root, metainfo=dict(classes=_classes))
_annotations = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
_loader = dict(num_workers=1, persistent_workers=True)

model = dict(
    backbone=dict(name=backbone, norm_outputs=True, **backbones[backbone]),
    neck=dict(in_channels=[48, 96, 192, 288], out_channels=64, num_outs=4, norm_cfg=_norm),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=20),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=64, finest_scale=20),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=10,
            norm_cfg=_norm,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=400, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=200)),
)
train_dataloader = dict(
    **_loader,
    batch_size=4,
    drop_last=True,
    batch_sampler=None,
    dataset=dict(
        **_dataset,
        pipeline=[
            dict(type="LoadImageFromFile"),
            _annotations,
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    **_loader,
    batch_size=4,
    dataset=dict(
        **_dataset,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale_factor=1.0),  # mmdet wants to know by how much pictures were scaled
            _annotations,
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f"{_root}/annotations/instances_val2017.json")
test_evaluator = val_evaluator

analyze_sizes = [(128, 128)]
auto_scale_lr = dict(enable=False)
train_cfg = dict(max_epochs=5)
optim_wrapper = dict(optimizer=dict(lr=4e-4, fused=True), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=0, convert_to_iter_based=True),
]
