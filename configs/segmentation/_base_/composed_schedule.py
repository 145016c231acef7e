"""From scratch on a few thousand pictures: AdamW with 200 iterations of warm-up, then polynomially to zero."""

_base_ = "segmentation.py"
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=10)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05, fused=True), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False, begin=200),
]
