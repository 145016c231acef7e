"""Fashion-MNIST (arXiv 1708.07747): 60,000 and 10,000 grey images of 28×28, from Debian's `dataset-fashion-mnist`."""

_shared = {"input_size": (1, 28, 28), "mean": (0.2860,), "std": (0.3530,), "interpolation": "bilinear"}
_train = {**_shared, "is_training": True, "scale": (0.8, 1.0), "ratio": (0.9, 1.1), "hflip": 0.5, "color_jitter": None}
_eval = {**_shared, "crop_pct": 1.0}

train_dataloader = {
    "batch_size": 128,
    "num_workers": 2,
    "persistent_workers": True,
    "drop_last": True,
    "collate_fn": {"type": "default_collate"},
    "sampler": {"type": "SeededSampler", "shuffle": True},
    "dataset": {"type": "FashionMNIST", "split": "train", "transform": _train},
}
val_dataloader = {
    "batch_size": 256,
    "num_workers": 2,
    "collate_fn": {"type": "default_collate"},
    "sampler": {"type": "DefaultSampler", "shuffle": False},
    "dataset": {"type": "FashionMNIST", "split": "test", "transform": _eval},
}
test_dataloader = val_dataloader
