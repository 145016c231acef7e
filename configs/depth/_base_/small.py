"""Pictures of 96×128 pixels, small enough for a CPU: how they are made, and the head that fits them."""

_base_ = ["../../_base_/runtime.py", "depth.py"]
_convention = {"height": 96, "width": 128, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_train, _eval = (
    {"type": "resized_training", "convention": _convention},
    {"type": "evaluation", "convention": _convention},
)

model = {
    "convention": _convention,
    "net": {"max_depth": 10.0, "features": 32},
    "loss": {"name": "silog", "lam": 0.85, "weight": 1.0},
    "depth_range": (1e-3, 10.0),
}
train_dataloader = {
    "num_workers": 0,
    "drop_last": True,
    "collate_fn": {"type": "default_collate"},
    "sampler": {"type": "SeededSampler", "shuffle": True},
    "dataset": {"transform": _train},
}
val_dataloader = test_dataloader = {
    "num_workers": 0,
    "batch_size": 10,
    "collate_fn": {"type": "default_collate"},
    "sampler": {"type": "DefaultSampler", "shuffle": False},
    "dataset": {"transform": _eval},
}
