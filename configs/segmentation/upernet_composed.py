"""A small UperNet from scratch on Fashion-MNIST's items on photographs, in ADE20K's layout, for one CPU core.

Measured here (benchmarks/results/composed_segmentation_amd_epyc.json): mIoU 50.7 % of MambaOut-Femto, 51.8 % of the
VMamba of its size, after 21 minutes each.

    python -m mixerzoo.tasks.synthetic.composed --out data/composed_128 --images 4000 --val-images 400 \\
        --size 128 --items 16 24 --sides 18 32
    mixerzoo train segmentation/upernet_composed --backbone mambaout_femto_s6

Eleven classes: background and ten items. The colours vary as they are: mirroring is the only augmentation. Background
is most of every picture and soon told from items; that it counts 0.3 leaves more of the gradient to their classes.
Backbones have fewer blocks, heads 64 channels. AdamW with 200 iterations of warm-up, then polynomially to zero.
"""

_base_ = ["_base_/segmentation.py", "_base_/upernet.py"]

run_name = "upernet_{backbone}_composed"
backbone = "mambaout_femto_gatedcnn"
_mixers = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
backbones = dict(
    **{f"mambaout_femto_{mixer}": dict(depths=(1, 1, 3, 1)) for mixer in _mixers},
    vmamba_femto=dict(name="vmamba_tiny_s1l8", depths=(1, 1, 3, 1), dims=(48, 96, 192, 288)),
)

_train = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
_test = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
analyze_sizes = ((128, 128),)
_dataset = dict(type="ComposedSegmentation", data_root="data/composed_128/ade/ADEChallengeData2016")

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=_train,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=_test,
    ),
)
test_dataloader = val_dataloader
_loss = dict(class_weight=[0.3] + [1.0] * 10)
model = dict(
    backbone=dict(name=backbone, **backbones[backbone]),
    data_preprocessor=dict(size=None, size_divisor=32),
    decode_head=dict(
        in_channels=[48, 96, 192, 288], channels=64, num_classes=11, norm_cfg=dict(type="BN"), loss_decode=_loss
    ),
    auxiliary_head=dict(in_channels=192, channels=64, num_classes=11, norm_cfg=dict(type="BN"), loss_decode=_loss),
)

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=10)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05, fused=True), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False, begin=200),
]
