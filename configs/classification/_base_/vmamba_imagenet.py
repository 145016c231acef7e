"""VMamba's ImageNet recipe (arXiv 2401.10166, appendix; classification/configs of the official repository at 2ed52ea).

Swin's: AdamW 1e-3 at batch 1024 (5e-4 per 512 images), weight decay 0.05, gradient norm clipped at 5; 300 epochs of
cosine to 1e-5, of which 20 of warm-up from 1e-6, both per iteration; EMA with decay 0.9999, whose weights are validated
and stored; mixed precision (add --amp bfloat16 or float16).
"""

_base_ = ["../../_base_/runtime.py", "classification.py", "imagenet.py"]
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1 - 0.9999)]
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-6 / 1e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-5 / 1e-3,
        by_epoch=True,
        begin=20,
        end=300,
        convert_to_iter_based=True,
    ),
]
