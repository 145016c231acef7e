"""Hypothesis 2 of MambaOut (arXiv 2405.07992) in segmentation, for a CPU: segmentation_h2 at half the width.

Measured here: benchmarks/results/h2_segmentation_amd_epyc.json.

    python -m mixerzoo.tasks.synthetic.composed --out data/composed_96_reduced --images 10240 --val-images 640 \\
        --size 96 --items 9 13 --sides 18 32
    python -m mixerzoo.tasks.synthetic.composed --out data/composed_384 --images 640 --val-images 40 --size 384 \\
        --items 144 208 --sides 18 32
    mixerzoo experiment segmentation_h2_reduced --runs runs/h2_segmentation_reduced

A step sees 384² = 16 × 96² pixels with about 176 items of 18 to 32 pixels, once on one long sequence (576 tokens at
stride 16) and once on 16 short ones (36 tokens); nothing else differs. At stride 16 the networks have D = 72, so
6D = 432 tokens lie between the two.
"""

_base_ = "segmentation_h2.py"

_channels = [24, 48, 72, 96]
model = dict(
    backbone=dict(dims=_channels),
    decode_head=dict(in_channels=_channels, channels=32),
    auxiliary_head=dict(in_channels=72, channels=32),
)
train_cfg = dict(max_epochs=2)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=64),
    dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False, begin=64),
]


def _data(size, root, batch_size):
    loader = dict(batch_size=batch_size, dataset=dict(data_root=f"{root}/ade/ADEChallengeData2016"))
    return dict(train_dataloader=loader, val_dataloader=loader, test_dataloader=loader, analyze_sizes=((size, size),))


_mixers = ("attn", "gatedcnn", "identity", "s6", "ss2d")
grid = dict(
    backbone=dict(_delete_=True, **{mixer: f"mambaout_femto_{mixer}" for mixer in _mixers}),
    length=dict(short=_data(96, "data/composed_96_reduced", 16), long=_data(384, "data/composed_384", 1)),
)
