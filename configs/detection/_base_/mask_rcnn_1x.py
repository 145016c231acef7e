"""Mask R-CNN on COCO, schedule 1×: AdamW 1e-4, weight decay 0.05 but for norms, biases and position tables, 12 epochs,
a tenth of the rate after 8 and 11, 1000 iterations of warm-up from a thousandth.

Swin's (mmdet 3.3.0, configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py), VMamba's (detection/configs/vssm1 of the
official repository at 2ed52ea) and MambaOut's (arXiv 2405.07992, section 4.2; its authors released no code).
"""

_base_ = ["../../_base_/runtime.py", "detection.py", "mask_rcnn.py", "coco.py"]
train_cfg = dict(max_epochs=12)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
