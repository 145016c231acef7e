"""What all classification has in common: where model, data and metrics are registered, loops, AdamW, who predicts."""

custom_imports = dict(imports=["mixerzoo.tasks.engine", "mixerzoo.tasks.classification"])
predictor = "mixerzoo.tasks.classification.predict"
headline = dict(metric="acc/top1", label="top-1 %", best="highest")

train_cfg = dict(type="EpochBasedTrainLoop")
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
val_evaluator = test_evaluator = dict(type="Accuracy")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", weight_decay=0.05),
)
