"""Hypothesis 2 for a CPU: the networks of `h2` at half their width, the same pixels and items in every step.

A step sees 384² = 16 × 96² pixels with about 176 items of 18 to 32 pixels, once on one long sequence and once on 16
short ones; nothing else differs. At stride 16 the networks have D = 72, so 6D = 432 tokens lie between the two.
"""

_base_ = "../../h2/_base_/network.py"
_channels = [24, 48, 72, 96]

model = dict(
    backbone=dict(dims=_channels),
    decode_head=dict(in_channels=_channels, channels=32),
    auxiliary_head=dict(in_channels=72, channels=32),
)
train_cfg = dict(max_epochs=2)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=64),
    dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False, begin=64),
]
