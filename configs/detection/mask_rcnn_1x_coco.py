"""Mask R-CNN on COCO at 1333×800, schedule 1× (12 epochs); for every backbone the same.

Published, single model, val2017 (MambaOut and Swin: arXiv 2405.07992, table 2; VMamba: README of the official
repository at 2ed52ea); parameters and GMACs of the whole detector at 1280×800:

    backbone                  box AP  mask AP     M   GMACs
    mambaout_tiny_gatedcnn      45.1     41.0    43     262
    mambaout_small_gatedcnn     47.4     42.7    65     354
    mambaout_base_gatedcnn      47.4     43.0   100     495
    vmamba_tiny_s1l8            47.3     42.7    50     271
    vmamba_small_s2l15          48.7     43.7    70     384
    vmamba_base_s2l15           49.2     44.1   108     485
    swin_tiny                   42.7     39.3    48     267
    swin_small                  44.8     40.9    69     354
    swin_base                   46.9     42.3   107     496

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_1x_coco --backbone vmamba_tiny_s1l8 --data COCO

AdamW 1e-4, weight decay 0.05 but for norms, biases and position tables, a tenth of the rate after 8 and 11 epochs, 1000
iterations of warm-up from a thousandth: Swin's (mmdet 3.3.0, configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py),
VMamba's (detection/configs/vssm1) and MambaOut's (section 4.2; its authors released no code).

What differs from what is published:

- MambaOut's drop path is that of the ImageNet training: the paper names none for detection.
- The other mixers of MambaOut-Tiny differ in nothing but the mixer. Nobody publishes their weights: give those of an
  ImageNet training with --cfg-options model.backbone.checkpoint=FILE.
- Vim has ViTDet's pyramid, with layer decay 0.837 and drop path 0.1 as in its authors' detection (det/ of the official
  repository at dd0358a). They trained Cascade Mask R-CNN in ViTDet's frame (1024×1024 with large-scale jitter, batch
  64), whose figures (45.7 box AP, 39.2 mask AP for Vim-Ti) are not those of this one.
- DeiT (arXiv 2012.12877) has ViTDet's pyramid, with layer decay 0.7 and drop path 0.1 as ViTDet's ViT-B (arXiv
  2203.16527, appendix A.2); unlike there, attention is global in every block."""

_base_ = ["../_base_/runtime.py", "_base_/detection.py", "_base_/mask_rcnn.py", "_base_/coco.py"]

run_name = "mask_rcnn_{backbone}_1x_coco"
backbone = "mambaout_tiny_gatedcnn"
_weights = dict(init_cfg=dict(type="Pretrained", checkpoint="timm"))


def _fit(*channels, **cfg):
    return dict(model=dict(neck=dict(in_channels=list(channels))), **cfg)


def _pyramid(name, layer_decay, *channels):
    decay = dict(optim_wrapper=dict(optimizer=dict(layer_decay=layer_decay)))
    return dict(name=name, drop_path_rate=0.1, pyramid=True, **_weights, cfg=_fit(*channels, **decay))


_96, _128 = _fit(96, 192, 384, 768), _fit(128, 256, 512, 1024)
_swin = "swin_{}_patch4_window7_224.ms_in1k"
_mixers = ("s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
backbones = dict(
    mambaout_tiny_gatedcnn=dict(drop_path_rate=0.2, **_weights),
    mambaout_small_gatedcnn=dict(drop_path_rate=0.4, **_weights),
    mambaout_base_gatedcnn=dict(drop_path_rate=0.6, **_weights, cfg=_fit(128, 256, 512, 768)),
    **{f"mambaout_tiny_{mixer}": dict(drop_path_rate=0.2) for mixer in _mixers},
    vmamba_tiny_s1l8=dict(drop_path_rate=0.2, **_weights, cfg=_96),
    vmamba_small_s2l15=dict(drop_path_rate=0.3, **_weights, cfg=_96),
    vmamba_base_s2l15=dict(drop_path_rate=0.6, **_weights, cfg=_128),
    swin_tiny=dict(name=_swin.format("tiny"), drop_path_rate=0.2, **_weights, cfg=_96),
    swin_small=dict(name=_swin.format("small"), drop_path_rate=0.2, **_weights, cfg=_96),
    swin_base=dict(name=_swin.format("base"), drop_path_rate=0.3, **_weights, cfg=_128),
    vim_tiny=_pyramid("vim_tiny_patch16_224", 0.837, 48, 96, 192, 192),
    vim_small=_pyramid("vim_small_patch16_224", 0.837, 96, 192, 384, 384),
    vit_small=_pyramid("deit_small_patch16_224.fb_in1k", 0.7, 96, 192, 384, 384),
    vit_base=_pyramid("deit_base_patch16_224.fb_in1k", 0.7, 192, 384, 768, 768),
)
model = dict(
    backbone=dict(name=backbone, norm_outputs=True, **backbones[backbone]),
    neck=dict(in_channels=[96, 192, 384, 576]),
)

train_cfg = dict(max_epochs=12)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
