"""UperNet (arXiv 1807.10221) with an auxiliary FCN head on the third stage, as for Swin (arXiv 2103.14030, appendix
A2.3) and in mmseg's upernet_swin.py: 512 channels, pools 1, 2, 3 and 6; auxiliary 256 channels, weight 0.4.

A LayerNorm on every output of the backbone, as Swin, VMamba (``outnorm0`` …) and MambaOut have (its author in
yuweihao/MambaOut#251: without it 46.1 mIoU instead of 47.4).
"""

_norm = dict(type="SyncBN", requires_grad=True)
_loss = dict(type="CrossEntropyLoss", use_sigmoid=False)
_head = dict(num_classes=150, dropout_ratio=0.1, align_corners=False, norm_cfg=_norm)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(type="TimmBackbone", norm_outputs=True),
    decode_head=dict(
        **_head,
        type="UPerHead",
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        loss_decode=dict(**_loss, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        **_head,
        type="FCNHead",
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(**_loss, loss_weight=0.4),
    ),
    train_cfg={},
    test_cfg=dict(mode="whole"),
)
