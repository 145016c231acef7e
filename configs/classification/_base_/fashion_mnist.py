"""Fashion-MNIST (arXiv 1708.07747): 60,000 and 10,000 grey images of 28×28, from Debian's `dataset-fashion-mnist`."""

_shared = dict(input_size=(1, 28, 28), mean=(0.2860,), std=(0.3530,), interpolation="bilinear")
_train = dict(**_shared, is_training=True, scale=(0.8, 1.0), ratio=(0.9, 1.1), hflip=0.5, color_jitter=None)
_eval = dict(**_shared, crop_pct=1.0)

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(type="FashionMNIST", split="train", transform=_train),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="FashionMNIST", split="test", transform=_eval),
)
test_dataloader = val_dataloader
