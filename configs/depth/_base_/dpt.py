"""Training of DPT as MDE-Toolbox does it: AdamW 1e-4, a tenth of that for the pre-trained network, weight decay 0.01,
24 epochs at batch 8×2 in one cycle (from a 25th of the rate, to a 100th of that), gradients clipped at 35, SILog with
λ 0.85.

DPT's authors released no training code. Their paper (arXiv 2103.13413, section 4.1) fine-tunes the relative model, pre-
trained on 1.4 million pictures, with the same kind of loss.
"""

_base_ = ["../../_base_/runtime.py", "depth.py"]
_per_iteration = dict(by_epoch=True, convert_to_iter_based=True)
model = dict(loss=dict(name="silog", lam=0.85, weight=1.0))
train_cfg = dict(max_epochs=24)
auto_scale_lr = dict(enable=True, base_batch_size=16)
optim_wrapper = dict(optimizer=dict(lr=1e-4, network_scale=0.1), clip_grad=dict(max_norm=35.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 25, begin=0, end=7.2, **_per_iteration),
    dict(type="CosineAnnealingLR", eta_min_ratio=1 / 2500, begin=7.2, **_per_iteration),
]
