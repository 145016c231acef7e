"""DPT heads on small networks, from scratch on a CPU: rendered rooms of 96×128 with exact depth, in NYU's format.

Measured here with seed 0 on 200 held-out rooms (benchmarks/results/depth_rooms_*.json, docs/depth.md): MambaOut-Femto
AbsRel 0.0971, δ1 0.930, RMSE 0.435 m after 13 minutes of one CPU core; the small VMamba (32 to 256 channels, seven
blocks) 0.0952, 0.934, 0.429 m; Vim-Tiny below AbsRel 0.10 after 21 minutes of two cores.

    python -m mixerzoo.tasks.synthetic.rooms data/depth_rooms --train 4000 --test 200 --scale 0.2
    mixerzoo train depth/synthetic --backbone mambaout_femto_s6 --data data/depth_rooms

A recipe of this project; the test rooms are other rooms, drawn after the training ones. AdamW 1e-3 for five epochs;
the rate rises over 100 iterations and falls along a cosine to 1 %. MambaOut-Femto has fewer blocks, Vim-Tiny 8 of its
24 and ViT-Tiny 8 of its 12, with patches of 16×16 pixels: 48 tokens.

Vim-Tiny and ViT-Tiny overfit 4,000 rooms (AbsRel 0.110 after twelve epochs, and 0.136 after four): they train on 16,000
of their own. --data would replace both folders: leave it out, and train where `data/` lies.

    python -m mixerzoo.tasks.synthetic.rooms data/depth_rooms                                        # tests, as for all
    python -m mixerzoo.tasks.synthetic.rooms data/depth_rooms_16000 --train 16000 --test 0 --seed 1
    mixerzoo train depth/synthetic --backbone vim_tiny --amp bfloat16

For ViT-Tiny a LayerNorm on each tap changed nothing after one epoch of 4,000 (SILog 16.7 against 16.4), nor did patches
of 8×8 pixels with 4 blocks after two (16.0 against 16.1).
"""

_base_ = "_base_/small.py"

run_name = "{backbone}_synthetic"
backbone = "mambaout_femto_gatedcnn"
_mixers = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
_tiny = dict(img_size=(96, 128), depth=8)
_16000 = dict(dataset=dict(root="data/depth_rooms_16000"))
backbones = dict(
    **{f"mambaout_femto_{mixer}": dict(depths=(1, 1, 3, 1)) for mixer in _mixers},
    vmamba_nano=dict(
        name="vmamba_tiny_s1l8",
        dims=(32, 64, 128, 256),
        depths=(1, 1, 4, 1),
        cfg=dict(train_cfg=dict(max_epochs=7)),
    ),
    vim_tiny=dict(name="vim_tiny_patch16_224", **_tiny, cfg=dict(train_dataloader=_16000)),
    vit_tiny=dict(
        name="vit_tiny_patch16_224", **_tiny, cfg=dict(train_dataloader=_16000, train_cfg=dict(max_epochs=7))
    ),
)
model = dict(net=dict(name=backbone, **backbones[backbone]))

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
