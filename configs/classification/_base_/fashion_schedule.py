"""Short AdamW training for Fashion-MNIST: cosine to 1 % of the rate, after 100 iterations of warm-up."""

_base_ = "classification.py"
train_cfg = dict(max_epochs=4)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=0, convert_to_iter_based=True),
]
