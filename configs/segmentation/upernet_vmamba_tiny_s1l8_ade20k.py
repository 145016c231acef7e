"""VMamba-T[s1l8] with UperNet on ADE20K.

segmentation/configs/vssm1 of the official repository at 2ed52ea: Swin's configuration (AdamW 6e-5, batch 4 × 4), drop
path 0.2. Published there: 47.9 / 48.8 mIoU (single / multi-scale), 62 M, 949 G.

    mixerzoo train segmentation/upernet_vmamba_tiny_s1l8_ade20k
"""

_base_ = [
    "_base_/upernet.py",
    "_base_/ade20k.py",
    "_base_/schedule_160k.py",
]
optim_wrapper = {"optimizer": {"lr": 6e-5}}
model = {
    "backbone": {
        "name": "vmamba_tiny_s1l8",
        "drop_path_rate": 0.2,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "decode_head": {"in_channels": [96, 192, 384, 768]},
    "auxiliary_head": {"in_channels": 384},
}
