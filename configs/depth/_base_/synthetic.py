"""Rendered rooms with exact depth in NYU's format; the test rooms are other rooms, drawn after the training ones.

python -m mixerzoo.tasks.depth.synthetic data/depth_rooms --train 4000 --test 200 --scale 0.2

The rate rises over 100 iterations and falls along a cosine to 1 %.
"""

_base_ = "small.py"
_dataset = dict(type="NYU", root="data/depth_rooms")
train_dataloader = dict(batch_size=8, dataset=dict(**_dataset, files="nyudepthv2_train_files_with_gt.txt"))
val_dataloader = test_dataloader = dict(dataset=dict(**_dataset, files="nyudepthv2_test_files_with_gt.txt"))
val_evaluator = test_evaluator = dict(type="DepthScore", protocol="plain")

train_cfg = dict(max_epochs=5)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=0, convert_to_iter_based=True),
]
