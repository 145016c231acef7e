"""What all depth has in common: where model, data and metrics are registered, loops, AdamW, who predicts and how."""

custom_imports = dict(
    imports=[
        "mixerzoo.tasks.engine",
        "mixerzoo.tasks.depth.datasets",
        "mixerzoo.tasks.depth.model",
        "mixerzoo.tasks.depth.score",
    ]
)
predictor = "mixerzoo.tasks.depth.predict"
headline = dict(
    metric="depth/abs_rel",
    label="AbsRel",
    best="lowest",
    others={"depth/delta1": "δ1", "depth/rmse": "RMSE m", "depth/silog": "SILog"},
)
analyze_sizes = ((480, 640), (352, 1216))  # NYU's and KITTI's
predict_cfg = dict(point_cloud=False, focal=None)

model = dict(type="DepthModel")
train_cfg = dict(type="EpochBasedTrainLoop")
val_cfg, test_cfg = dict(type="ValLoop"), dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", weight_decay=0.01),
)
