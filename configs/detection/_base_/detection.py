"""What all detection has in common: mmdet's scope, what is registered, who checks and predicts, loops, AdamW."""

custom_imports = {"imports": ["mixerzoo.tasks.engine", "mixerzoo.tasks.detection.model", "mixerzoo.tasks.detection"]}
default_scope = "mmdet"
checker = "mixerzoo.tasks.detection.check"
predictor = "mixerzoo.tasks.detection.predict"
headline = "coco/bbox_mAP"

train_cfg = {"type": "EpochBasedTrainLoop"}
val_cfg, test_cfg = {"type": "ValLoop"}, {"type": "TestLoop"}
optim_wrapper = {
    "type": "OptimWrapper",
    "constructor": "TimmOptimWrapperConstructor",
    "optimizer": {"opt": "adamw", "weight_decay": 0.05},
}
