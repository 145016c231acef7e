"""DPT heads on small networks, fine-tuned from rendered rooms on real frames of a model castle.

The 30 RealSense frames of Debian's visp-images-data: 20 to train, the last 10 to test.

Measured here: benchmarks/results/depth_castel_*.json, docs/depth.md.

    apt-get install visp-images-data && python -m mixerzoo.tasks.synthetic.sources castel data/castel
    mixerzoo train depth/castel --backbone mambaout_femto_gatedcnn --data data/castel \\
        --cfg-options load_from=RUN/epoch_N.pth

RUN is of depth/synthetic with the same backbone. Pictures are grey and resized to 96×128; predictions are scored at
480×640. The depth camera sits 2.5 cm beside the other one and is not registered to it, so edges of the ground truth are
off by some pixels.
"""

_base_ = "_base_/small.py"

run_name = "{backbone}_castel"
backbone = "mambaout_femto_gatedcnn"
_tiny = dict(img_size=(96, 128), depth=8)
backbones = dict(
    mambaout_femto_gatedcnn=dict(depths=(1, 1, 3, 1)),
    vmamba_nano=dict(name="vmamba_tiny_s1l8", dims=(32, 64, 128, 256), depths=(1, 1, 4, 1)),
    vim_tiny=dict(name="vim_tiny_patch16_224", **_tiny),
    vit_tiny=dict(name="vit_tiny_patch16_224", **_tiny),
)
model = dict(net=dict(name=backbone, **backbones[backbone]))

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
