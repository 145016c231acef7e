"""Mask R-CNN on COCO, schedule 3× with multiple scales (36 epochs): backbones and all else as in mask_rcnn_1x_coco.

Published (README of VMamba's official repository at 2ed52ea): vmamba_tiny_s1l8 48.8 box AP and 43.7 mask AP,
vmamba_small_s2l15 49.9 and 44.2. MambaOut's paper has no such figures.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_3x_coco --backbone vmamba_tiny_s1l8 --data COCO

A tenth of the rate after 27 and 33 epochs, and DETR's augmentation (arXiv 2005.12872, appendix A.4): half of the
pictures at a random size, half cropped between two resizes. mmdet 3.3.0,
configs/swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py, which VMamba's 3× figures follow too."""

_base_ = "mask_rcnn_1x_coco.py"

run_name = "mask_rcnn_{backbone}_3x_coco"


def _resize(short_sides):
    return dict(type="RandomChoiceResize", scales=[(side, 1333) for side in short_sides], keep_ratio=True)


_crop = dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True)
_sides = range(480, 801, 32)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomFlip", prob=0.5),
            dict(
                type="RandomChoice",
                transforms=[[_resize(_sides)], [_resize((400, 500, 600)), _crop, _resize(_sides)]],
            ),
            dict(type="PackDetInputs"),
        ]
    )
)
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
