"""Vim-Tiny with UperNet on ADE20K.

seg/ of the official repository at dd0358a: 60,000 iterations of 4 × 8 crops of 512, AdamW 2e-4, weight decay 0.1,
blocks 5, 11, 17 and 23, as many channels in the head as in the network, tested in windows of 512 every 341 pixels.
The pyramid is ViTDet's, not the official one (twice as wide at the finer levels). Published (arXiv 2401.09417, table
2): 41.0 mIoU (40.2 in its first version), 13 M.

    mixerzoo train segmentation/upernet_vim_tiny_ade20k
"""

_base_ = [
    "_base_/upernet.py",
    "_base_/ade20k.py",
    "_base_/schedule_160k.py",
]
train_dataloader = {"batch_size": 8}
train_cfg = {"max_iters": 60000, "val_interval": 6000}
default_hooks = {"checkpoint": {"interval": 6000}}
optim_wrapper = {"optimizer": {"lr": 2e-4, "weight_decay": 0.1}}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": 1500},
    {"type": "PolyLR", "eta_min": 0.0, "power": 1.0, "by_epoch": False, "begin": 1500, "end": 60000},
]
model = {
    "data_preprocessor": {"test_cfg": {"size_divisor": 32}},
    "backbone": {
        "name": "vim_tiny_patch16_224",
        "out_indices": [5, 11, 17, 23],
        "pyramid": True,
        "norm_outputs": False,
        "drop_path_rate": 0.0,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "decode_head": {"in_channels": [48, 96, 192, 192], "channels": 192},
    "auxiliary_head": {"in_channels": 192},
    "test_cfg": {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)},
}
