"""MambaOut on ImageNet at 224×224 (arXiv 2405.07992, appendix; scripts/ of the official repository at 9f2f234).

Published top-1 (arXiv 2405.07992, table 1): Femto 78.9 %, Kobe 80.0 % (official repository), Tiny 82.7 %, Small 84.1 %,
Base 84.2 %.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/mambaout_imagenet --backbone mambaout_tiny_gatedcnn --data IMAGENET

AdamW 4e-3 at batch 4096 (8 processes × 512), weight decay 0.05, no clipping, no EMA; 300 epochs of cosine to 1e-5, of
which 20 of warm-up from 1e-6, then timm's 10 epochs of cool-down at the lowest rate. timm's cosine runs under the
warm-up; here it begins after it, which differs by less than 1.1 % of the rate.
"""

_base_ = ["../_base_/runtime.py", "_base_/classification.py", "_base_/imagenet.py"]

run_name = "{backbone}_imagenet"
backbone = "mambaout_tiny_gatedcnn"
backbones = dict(
    mambaout_femto_gatedcnn=dict(drop_path_rate=0.025),
    mambaout_kobe_gatedcnn=dict(drop_path_rate=0.025),
    mambaout_tiny_gatedcnn=dict(drop_path_rate=0.2),
    mambaout_small_gatedcnn=dict(drop_path_rate=0.4),
    mambaout_base_gatedcnn=dict(drop_path_rate=0.6),
)
model = dict(net=dict(name=backbone, **backbones[backbone]))

train_dataloader = dict(batch_size=512)
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=310)
auto_scale_lr = dict(enable=True, base_batch_size=4096)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 4e-3, by_epoch=True, begin=0, end=20),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-5 / 4e-3, by_epoch=True, begin=20, end=300),
]
