"""What all segmentation has in common: where models, data and metric are registered, loops, AdamW, who checks
and predicts.

Weight decay follows each network's own ``no_weight_decay`` and spares biases and norms. The Swin recipe, from which the
papers' are derived, spares norms and position tables but not biases; mmseg's constructor would decay the state matrices
of a scan, which its papers do not.
"""

_base_ = "../../_base_/runtime.py"
custom_imports = dict(imports=["mixerzoo.tasks.engine", "mixerzoo.tasks.segmentation"])
checker = "mixerzoo.tasks.segmentation.check"
predictor = "mixerzoo.tasks.segmentation.predict"
default_scope = "mmseg"
headline = dict(
    metric="seg/mIoU",
    label="mIoU %",
    best="highest",
    others={"seg/mAcc": "mean class accuracy %", "seg/aAcc": "pixel accuracy %"},
)

val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
val_evaluator = test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"], prefix="seg")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", betas=(0.9, 0.999), weight_decay=0.01),
)
