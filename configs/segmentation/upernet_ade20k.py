"""UperNet on ADE20K, 160,000 iterations of 16 crops of 512×512 (Swin, arXiv 2103.14030, appendix A2.3; mmseg's).

Published mIoU, single / multi-scale, parameters and GMACs of the whole segmentor at 2048×512 (MambaOut: arXiv
2405.07992, table 3; VMamba: README of the official repository at 2ed52ea; Swin: arXiv 2103.14030, base size its
repository):

    backbone                  single  multi     M   GMACs
    mambaout_tiny_gatedcnn      47.4   48.6    54     938
    mambaout_small_gatedcnn     49.5   50.6    76    1032
    mambaout_base_gatedcnn      49.6   51.0   112    1178
    vmamba_tiny_s1l8            47.9   48.8    62     949
    vmamba_small_s2l15          50.6   51.2    82    1028
    vmamba_base_s2l15           51.0   51.6   122    1170
    swin_tiny                   44.5   45.8    60     945
    swin_small                  47.6   49.5    81    1038
    swin_base                   48.1   49.7   121    1188

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train segmentation/upernet_ade20k --backbone vmamba_tiny_s1l8 --data ADE

AdamW 6e-5, 1,500 iterations of linear warm-up from a millionth of the rate, then linearly to zero; a LayerNorm on every
output of the backbone; weights of ImageNet. Where each comes from, and what differs:

- VMamba: segmentation/configs/vssm1 of the official repository at 2ed52ea (batch 4 × 4).
- MambaOut: the authors released no code for it. Their words (yuweihao/MambaOut#251): Swin's configuration, learning
  rate 1e-4, drop path 0.3 (tiny), 0.3 or 0.4 (small) and 0.6 (base), no layer-wise decay. The other mixers of
  MambaOut-Tiny differ in nothing but the mixer. No weights of them are published: train
  classification/mambaout_imagenet with the same --backbone, and put the file where the table has it.
- Swin: mmseg's swin-{tiny,small,base}-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512; timm's network.
- ViT: mmseg's vit_vit-b16_mln and vit_deit-s16_mln, blocks 2, 5, 8 and 11, tested in windows of 512 every 341 pixels.
  The pyramid is ViTDet's instead of its MultiLevelNeck.
- Vim has a recipe of its own: upernet_vim_ade20k."""

_base_ = ["_base_/segmentation.py", "_base_/upernet.py", "_base_/ade20k.py"]

run_name = "upernet_{backbone}_ade20k"
backbone = "vmamba_tiny_s1l8"
_weights = dict(init_cfg=dict(type="Pretrained", checkpoint="timm"))


def _fit(*channels, lr=6e-5):
    heads = dict(decode_head=dict(in_channels=list(channels)), auxiliary_head=dict(in_channels=channels[2]))
    return dict(model=heads, optim_wrapper=dict(optimizer=dict(lr=lr)))


def _vit(name, drop_path_rate, *channels):
    cfg = _fit(*channels)
    cfg["model"].update(
        data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
        test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
    )
    blocks = dict(out_indices=[2, 5, 8, 11], pyramid=True, norm_outputs=False)
    return dict(name=name, drop_path_rate=drop_path_rate, **blocks, **_weights, cfg=cfg)


def _pretrained_here(mixer):
    return dict(init_cfg=dict(type="Pretrained", checkpoint=f"data/weights/mambaout_tiny_{mixer}.pth"))


_mambaout = _fit(96, 192, 384, 576, lr=1e-4)
_128 = _fit(128, 256, 512, 1024)
_swin = "swin_{}_patch4_window7_224.ms_in1k"
_mixers = ("s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
backbones = dict(
    mambaout_tiny_gatedcnn=dict(drop_path_rate=0.3, **_weights, cfg=_mambaout),
    mambaout_small_gatedcnn=dict(drop_path_rate=0.4, **_weights, cfg=_mambaout),
    mambaout_base_gatedcnn=dict(drop_path_rate=0.6, **_weights, cfg=_fit(128, 256, 512, 768, lr=1e-4)),
    **{
        f"mambaout_tiny_{mixer}": dict(drop_path_rate=0.3, **_pretrained_here(mixer), cfg=_mambaout)
        for mixer in _mixers
    },
    vmamba_tiny_s1l8=dict(drop_path_rate=0.2, **_weights),
    vmamba_small_s2l15=dict(drop_path_rate=0.3, **_weights),
    vmamba_base_s2l15=dict(drop_path_rate=0.6, **_weights, cfg=_128),
    swin_tiny=dict(name=_swin.format("tiny"), drop_path_rate=0.3, **_weights),
    swin_small=dict(name=_swin.format("small"), drop_path_rate=0.3, **_weights),
    swin_base=dict(name=_swin.format("base"), drop_path_rate=0.3, **_weights, cfg=_128),
    vit_small=_vit("deit_small_patch16_224.fb_in1k", 0.1, 96, 192, 384, 384),
    vit_base=_vit("vit_base_patch16_224.augreg_in21k_ft_in1k", 0.0, 192, 384, 768, 768),
)
model = dict(
    backbone=dict(name=backbone, **backbones[backbone]),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
optim_wrapper = dict(optimizer=dict(lr=6e-5))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000),
)
log_processor = dict(by_epoch=False)
