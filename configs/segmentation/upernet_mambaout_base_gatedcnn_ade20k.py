"""MambaOut-Base with UperNet on ADE20K.

The authors released no code for it. Their words (yuweihao/MambaOut#251): Swin's configuration with a LayerNorm on
each stage's output, learning rate 1e-4, drop path 0.6, no layer-wise decay. Published (arXiv 2405.07992, table 3):
49.6 / 51.0 mIoU (single / multi-scale), 112 M, 1178 G.

    mixerzoo train segmentation/upernet_mambaout_base_gatedcnn_ade20k
"""

_base_ = [
    "_base_/upernet.py",
    "_base_/ade20k.py",
    "_base_/schedule_160k.py",
]
optim_wrapper = dict(optimizer=dict(lr=1e-4))
model = dict(
    backbone=dict(
        name="mambaout_base_gatedcnn",
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 768]),
    auxiliary_head=dict(in_channels=512),
)
