"""ViT on ImageNet by DeiT's recipe (arXiv 2012.12877, table 9, and main.py of the official repository), 224×224.

Published top-1 without distillation (arXiv 2012.12877, table 5): DeiT-Ti 72.2 %, DeiT-S 79.8 %, DeiT-B 81.8 %. The
causal ViTs are those of MambaOut's figure 3b (arXiv 2405.07992), for which the paper gives no numbers.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/deit_imagenet --backbone vit_small_causal --data IMAGENET

AdamW 1e-3 at batch 1024 (5e-4 per 512 images), weight decay 0.05, no clipping; 300 epochs of cosine to 1e-5, of which 5
of warm-up from 1e-6; stochastic depth 0.1; repeated augmentation with 3 copies; EMA with decay 0.99996. Here the EMA's
weights are validated and stored; the published figures are of the weights themselves (custom_hooks = [] gives those).
"""

_base_ = ["../_base_/runtime.py", "_base_/classification.py", "_base_/imagenet.py"]

run_name = "{backbone}_imagenet"
backbone = "deit_small"
backbones = dict(
    deit_tiny=dict(name="deit_tiny_patch16_224", drop_path_rate=0.1),
    deit_small=dict(name="deit_small_patch16_224", drop_path_rate=0.1),
    deit_base=dict(name="deit_base_patch16_224", drop_path_rate=0.1),
    vit_tiny_causal=dict(name="vit_tiny_patch16_224_causal", drop_path_rate=0.1),
    vit_small_causal=dict(name="vit_small_patch16_224_causal", drop_path_rate=0.1),
    vit_base_causal=dict(name="vit_base_patch16_224_causal", drop_path_rate=0.1),
)
model = dict(net=backbones[backbone])

train_dataloader = dict(sampler=dict(repeats=3), dataset=dict(transform=dict(color_jitter=0.3)))
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1 - 0.99996)]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 1e-3, by_epoch=True, begin=0, end=5),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-5 / 1e-3, by_epoch=True, begin=5, end=300),
]
