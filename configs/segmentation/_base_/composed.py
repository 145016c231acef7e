"""Fashion-MNIST's items on photographs, in ADE20K's layout; a small UperNet, so that a CPU can train it.

    python -m mixerzoo.tasks.detection.composed --out data/composed_128 --images 4000 --val-images 400 \\
        --size 128 --items 16 24 --sides 18 32

Eleven classes: background and ten items. The colours vary as they are: mirroring is the only augmentation. Background
is most of every picture and soon told from items; that it counts 0.3 leaves more of the gradient to their classes.
"""

_base_ = "upernet.py"

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
    data_preprocessor=dict(size=None, size_divisor=32),
    decode_head=dict(channels=64, num_classes=11, norm_cfg=dict(type="BN"), loss_decode=_loss),
    auxiliary_head=dict(channels=64, num_classes=11, norm_cfg=dict(type="BN"), loss_decode=_loss),
)
