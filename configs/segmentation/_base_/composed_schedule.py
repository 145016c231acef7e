"""From scratch on a few thousand pictures: AdamW with 200 iterations of warm-up, then polynomially to zero."""

_base_ = "segmentation.py"
train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": 10}
optim_wrapper = {"optimizer": {"lr": 1e-3, "weight_decay": 0.05, "fused": True}, "clip_grad": {"max_norm": 5.0}}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 200},
    {"type": "PolyLR", "eta_min": 0.0, "power": 0.9, "by_epoch": False, "begin": 200},
]
