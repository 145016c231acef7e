"""ViT-B (timm's vit_base_patch16_224.augreg_in21k_ft_in1k) with UperNet on ADE20K.

mmseg's vit_vit-b16_mln_upernet_8xb2-160k_ade20k-512x512: AdamW 6e-5, drop path 0.0, blocks 2, 5, 8 and 11. The
pyramid is ViTDet's instead of its MultiLevelNeck.

    mixerzoo train segmentation/upernet_vit_base_ade20k
"""

_base_ = [
    "_base_/upernet.py",
    "_base_/ade20k.py",
    "_base_/schedule_160k.py",
]
optim_wrapper = dict(optimizer=dict(lr=6e-5))
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    backbone=dict(
        name="vit_base_patch16_224.augreg_in21k_ft_in1k",
        out_indices=[2, 5, 8, 11],
        pyramid=True,
        norm_outputs=False,
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 768], channels=512),
    auxiliary_head=dict(in_channels=768),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
