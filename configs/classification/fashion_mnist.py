"""Small networks on Fashion-MNIST (arXiv 1708.07747), from scratch on a CPU: 60,000 and 10,000 grey images of 28×28.

Measured here with seed 0 on two cores of an Intel Xeon at 2.8 GHz: MambaOut-Femto (gatedcnn) 90.4 % top-1 after four
epochs and 492 s. All networks over three seeds: benchmarks/results/h1_amd_epyc.json.

    apt-get install dataset-fashion-mnist
    mixerzoo train classification/fashion_mnist --backbone mambaout_femto_s6

A recipe of this project: AdamW 2e-3, 100 iterations of warm-up, cosine to 1 % of the rate, four epochs. MambaOut-Femto
has fewer blocks, as its last stage sees one token; ViT-Tiny has patches of 4×4 pixels (49 tokens) and six blocks.
"""

_base_ = ["../_base_/runtime.py", "_base_/classification.py"]

run_name = "{backbone}_fashion_mnist"
backbone = "mambaout_femto_gatedcnn"
_mixers = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
_vit = dict(img_size=28, patch_size=4, depth=6)
backbones = dict(
    **{f"mambaout_femto_{mixer}": dict(depths=(1, 1, 3, 1)) for mixer in _mixers},
    vit_tiny=dict(name="vit_tiny_patch16_224", **_vit),
    vit_tiny_causal=dict(name="vit_tiny_patch16_224_causal", **_vit),
)
model = dict(type="Classifier", num_classes=10, net=dict(name=backbone, in_chans=1, **backbones[backbone]))

_shared = dict(input_size=(1, 28, 28), mean=(0.2860,), std=(0.3530,), interpolation="bilinear")
_train = dict(**_shared, is_training=True, scale=(0.8, 1.0), ratio=(0.9, 1.1), hflip=0.5, color_jitter=None)
_eval = dict(**_shared, crop_pct=1.0)

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(type="FashionMNIST", split="train", transform=_train),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="FashionMNIST", split="test", transform=_eval),
)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=4)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=0, convert_to_iter_based=True),
]
