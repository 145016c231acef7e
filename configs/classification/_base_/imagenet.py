"""ImageNet-1k at 224×224 with the augmentation and the soft targets that all recipes here share: RandAugment m9,
random erasing 0.25, mixup 0.8, cutmix 1.0, label smoothing 0.1 (DeiT, arXiv 2012.12877, table 9, and its descendants).

`root` holds `train/` and `val/` with a folder per class, or Kaggle's archive unpacked (`ILSVRC/Data/CLS-LOC`).
`batch_size` is per process; the learning rate follows the batch size of all processes together, from each recipe's own.
"""

_shared = dict(
    input_size=(3, 224, 224),
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
_train = dict(
    **_shared,
    is_training=True,
    auto_augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.4,
    re_prob=0.25,
    re_mode="pixel",
)
_loader = dict(num_workers=8, persistent_workers=True, collate_fn=dict(type="default_collate"))

train_dataloader = dict(
    **_loader,
    batch_size=128,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(type="ImageFolder", root="data/imagenet", split="train", transform=_train),
)
val_dataloader = dict(
    **_loader,
    batch_size=256,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolder",
        root="data/imagenet",
        split="val",
        transform=dict(**_shared, crop_pct=0.875),
    ),
)
test_dataloader = val_dataloader
model = dict(
    type="Classifier",
    num_classes=1000,
    label_smoothing=0.1,
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
)
