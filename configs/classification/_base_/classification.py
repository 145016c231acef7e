"""What all classification has in common: where model, data and metrics are registered, loops, AdamW, who predicts."""

custom_imports = {"imports": ["mixerzoo.tasks.engine", "mixerzoo.tasks.classification"]}
predictor = "mixerzoo.tasks.classification.predict"
headline = {"metric": "acc/top1", "label": "top-1 %", "best": "highest"}

train_cfg = {"type": "EpochBasedTrainLoop"}
val_cfg, test_cfg = {"type": "ValLoop"}, {"type": "TestLoop"}
val_evaluator = test_evaluator = {"type": "Accuracy"}
optim_wrapper = {
    "type": "OptimWrapper",
    "constructor": "TimmOptimWrapperConstructor",
    "optimizer": {"opt": "adamw", "weight_decay": 0.05},
}
