"""DeiT's ImageNet recipe (arXiv 2012.12877, table 9, and main.py of the official repository), without distillation.

AdamW 1e-3 at batch 1024 (5e-4 per 512 images), weight decay 0.05, no clipping; 300 epochs of cosine to 1e-5, of which 5
of warm-up from 1e-6; stochastic depth 0.1; repeated augmentation with 3 copies; EMA with decay 0.99996. Here the EMA's
weights are validated and stored; the published figures are of the weights themselves (custom_hooks = [] gives those).
"""

_base_ = ["../../_base_/runtime.py", "classification.py", "imagenet.py"]
train_dataloader = dict(sampler=dict(repeats=3), dataset=dict(transform=dict(color_jitter=0.3)))
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1 - 0.99996)]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 1e-3, by_epoch=True, begin=0, end=5),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-5 / 1e-3, by_epoch=True, begin=5, end=300),
]
