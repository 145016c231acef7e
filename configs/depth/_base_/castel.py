"""The 30 RealSense frames of a model castle in Debian's visp-images-data: 20 to train, the last 10 to test.

apt-get install visp-images-data && python -m mixerzoo.tasks.depth.sources castel data/castel

Fine-tuning of what the synthetic config of the same name has trained: `--cfg-options load_from=RUN/epoch_N.pth`.
Pictures are grey and resized to 96×128; predictions are scored at 480×640. The depth camera sits 2.5 cm beside the
other one and is not registered to it, so edges of the ground truth are off by some pixels.
"""

_base_ = "small.py"
_dataset = dict(type="RGBDFolder", root="data/castel")
train_dataloader = dict(batch_size=4, dataset=dict(**_dataset, part=(0, 20)))
val_dataloader = test_dataloader = dict(dataset=dict(**_dataset, part=(20, 30)))
val_evaluator = test_evaluator = dict(type="DepthScore", protocol="plain")

train_cfg = dict(max_epochs=40, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=10),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=0, convert_to_iter_based=True),
]
