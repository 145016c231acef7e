"""COCO 2017 (arXiv 1405.0312) at 1333×800 with flips: mmdet's configs/_base_/datasets/coco_instance.py (3.3.0).

`data_root` (--data) holds `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`. `batch_size` is
per process: 16 images on 8 GPUs, as all papers here have it; the learning rate follows another batch size.
"""

_root = "data/coco"
_resize = {"type": "Resize", "scale": (1333, 800), "keep_ratio": True}
_annotations = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
_loader = {"num_workers": 2, "persistent_workers": True}

train_dataloader = {
    **_loader,
    "batch_size": 2,
    "sampler": {"type": "SeededSampler", "shuffle": True},
    "batch_sampler": {"type": "AspectRatioBatchSampler"},
    "dataset": {
        "type": "SeededCocoDataset",
        "data_root": _root,
        "ann_file": "annotations/instances_train2017.json",
        "data_prefix": {"img": "train2017/"},
        "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            _annotations,
            _resize,
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PackDetInputs"},
        ],
    },
}
val_dataloader = {
    **_loader,
    "batch_size": 1,
    "drop_last": False,
    "sampler": {"type": "DefaultSampler", "shuffle": False},
    "dataset": {
        "type": "SeededCocoDataset",
        "data_root": _root,
        "ann_file": "annotations/instances_val2017.json",
        "data_prefix": {"img": "val2017/"},
        "test_mode": True,
        "pipeline": [
            {"type": "LoadImageFromFile"},
            _resize,
            _annotations,
            {
                "type": "PackDetInputs",
                "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            },
        ],
    },
}
test_dataloader = val_dataloader
val_evaluator = {
    "type": "CocoFigures",
    "metric": ["bbox", "segm"],
    "ann_file": f"{_root}/annotations/instances_val2017.json",
}
test_evaluator = val_evaluator
auto_scale_lr = {"enable": True, "base_batch_size": 16}
