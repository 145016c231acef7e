"""Pictures of 96×128 pixels, small enough for a CPU: how they are made, and the head that fits them."""

_base_ = ["../../_base_/runtime.py", "depth.py"]
_convention = dict(height=96, width=128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_train, _eval = (
    dict(type="resized_training", convention=_convention),
    dict(type="evaluation", convention=_convention),
)

model = dict(
    convention=_convention,
    net=dict(max_depth=10.0, features=32),
    loss=dict(name="silog", lam=0.85, weight=1.0),
    depth_range=(1e-3, 10.0),
)
train_dataloader = dict(
    num_workers=0,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(transform=_train),
)
val_dataloader = test_dataloader = dict(
    num_workers=0,
    batch_size=10,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(transform=_eval),
)
