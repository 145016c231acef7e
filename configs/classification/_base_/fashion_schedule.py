"""Short AdamW training for Fashion-MNIST: cosine to 1 % of the rate, after 100 iterations of warm-up."""

train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": 4}
val_cfg, test_cfg = {"type": "ValLoop"}, {"type": "TestLoop"}
optim_wrapper = {
    "type": "OptimWrapper",
    "constructor": "TimmOptimWrapperConstructor",
    "optimizer": {"opt": "adamw", "lr": 2e-3, "weight_decay": 0.05},
    "clip_grad": {"max_norm": 1.0},
}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 100},
    {"type": "CosineAnnealingLR", "eta_min_ratio": 0.01, "by_epoch": True, "begin": 0, "convert_to_iter_based": True},
]
