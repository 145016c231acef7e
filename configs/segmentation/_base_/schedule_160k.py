"""160,000 iterations of 16 images (Swin, arXiv 2103.14030, appendix A2.3; mmseg's schedule): 1,500 of linear warm-up
from a millionth of the rate, then linearly to zero.
"""

_base_ = "segmentation.py"
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000),
)
log_processor = dict(by_epoch=False)
