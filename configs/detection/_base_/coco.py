"""COCO 2017 (arXiv 1405.0312) at 1333×800 with flips: mmdet's configs/_base_/datasets/coco_instance.py (3.3.0).

`data_root` (--data) holds `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`. `batch_size` is
per process: 16 images on 8 GPUs, as all papers here have it; the learning rate follows another batch size.
"""

_root = "data/coco"
_resize = dict(type="Resize", scale=(1333, 800), keep_ratio=True)
_annotations = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
_loader = dict(num_workers=2, persistent_workers=True)

train_dataloader = dict(
    **_loader,
    batch_size=2,
    sampler=dict(type="SeededSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="SeededCocoDataset",
        data_root=_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type="LoadImageFromFile"),
            _annotations,
            _resize,
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    **_loader,
    batch_size=1,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SeededCocoDataset",
        data_root=_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            _resize,
            _annotations,
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoFigures",
    metric=["bbox", "segm"],
    ann_file=f"{_root}/annotations/instances_val2017.json",
)
test_evaluator = val_evaluator
analyze_sizes = [(800, 1280)]  # of the papers' figures
auto_scale_lr = dict(enable=True, base_batch_size=16)
