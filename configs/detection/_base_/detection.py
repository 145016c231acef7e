"""What all detection has in common: mmdet's scope, what is registered, who checks and predicts, loops, AdamW."""

custom_imports = dict(imports=["mixerzoo.tasks.engine", "mixerzoo.tasks.detection.model", "mixerzoo.tasks.detection"])
default_scope = "mmdet"
checker = "mixerzoo.tasks.detection.check"
predictor = "mixerzoo.tasks.detection.predict"
headline = dict(
    metric="coco/bbox_mAP",
    label="box AP",
    best="highest",
    others={"coco/bbox_mAP_50": "box AP50", "coco/segm_mAP": "mask AP"},
)

train_cfg = dict(type="EpochBasedTrainLoop")
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", weight_decay=0.05),
)
