"""ViT-S (timm's deit_small_patch16_224.fb_in1k) with UperNet on ADE20K.

mmseg's vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512: AdamW 6e-5, drop path 0.1, blocks 2, 5, 8 and 11. The
pyramid is ViTDet's instead of its MultiLevelNeck.

    mixerzoo train segmentation/upernet_vit_small_ade20k
"""

_base_ = [
    "_base_/upernet.py",
    "_base_/ade20k.py",
    "_base_/schedule_160k.py",
]
optim_wrapper = {"optimizer": {"lr": 6e-5}}
model = {
    "data_preprocessor": {"test_cfg": {"size_divisor": 32}},
    "backbone": {
        "name": "deit_small_patch16_224.fb_in1k",
        "out_indices": [2, 5, 8, 11],
        "pyramid": True,
        "norm_outputs": False,
        "drop_path_rate": 0.1,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "decode_head": {"in_channels": [96, 192, 384, 384], "channels": 512},
    "auxiliary_head": {"in_channels": 384},
    "test_cfg": {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)},
}
