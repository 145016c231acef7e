"""VMamba on ImageNet at 224×224 (arXiv 2401.10166, appendix).

classification/configs of the official repository at 2ed52ea.

Published top-1 (README of the official repository): T[s2l5] 82.5 %, T[s1l8] 82.6 %, S[s2l15] 83.6 %, S[s1l20] 83.3 %,
B[s2l15] 83.9 %, B[s1l20] 83.8 %.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vmamba_imagenet --backbone vmamba_tiny_s1l8 --data IMAGENET --amp bfloat16

Swin's recipe: AdamW 1e-3 at batch 1024 (5e-4 per 512 images), weight decay 0.05, gradient norm clipped at 5; 300 epochs
of cosine to 1e-5, of which 20 of warm-up from 1e-6, both per iteration; EMA with decay 0.9999, whose weights are
validated and stored; mixed precision (the authors': float16).
"""

_base_ = ["../_base_/runtime.py", "_base_/classification.py", "_base_/imagenet.py"]

run_name = "{backbone}_imagenet"
backbone = "vmamba_tiny_s1l8"
backbones = dict(
    vmamba_tiny_s2l5=dict(drop_path_rate=0.2),
    vmamba_tiny_s1l8=dict(drop_path_rate=0.2),
    vmamba_small_s2l15=dict(drop_path_rate=0.3),
    vmamba_small_s1l20=dict(drop_path_rate=0.3),
    vmamba_base_s2l15=dict(drop_path_rate=0.6),
    vmamba_base_s1l20=dict(drop_path_rate=0.5),
)
model = dict(net=dict(name=backbone, **backbones[backbone]))

train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1 - 0.9999)]
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
_per_iteration = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 1e-3, begin=0, end=20, **_per_iteration),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-5 / 1e-3, begin=20, end=300, **_per_iteration),
]
