"""A small Mask R-CNN from scratch on small pictures composed of Fashion-MNIST's items, for one CPU core:

    python -m mixerzoo.tasks.detection.composed --out data/composed_128 --images 4000 --val-images 400 --size 128 \\
        --items 16 24 --sides 18 32

There are a score of items on every picture, as what a network learns in a given time follows from how many it has
seen. They are made 18 to 32 pixels wide. Against `mask_rcnn.py`: pyramid and heads of 64 channels with group norm
(training from scratch needs a norm everywhere: arXiv 1811.08883), anchors of 16 to 128 pixels, fewer proposals and
samples, RoI levels split at 40 and 80 pixels.
"""

_base_ = ["../../_base_/runtime.py", "detection.py", "mask_rcnn.py", "coco.py"]

_root = "data/composed_128/coco"
_classes = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_norm = {"type": "GN", "num_groups": 8, "requires_grad": True}
_dataset = {"data_root": _root, "metainfo": {"classes": _classes}}
_annotations = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
_loader = {"num_workers": 1, "persistent_workers": True}

model = {
    "backbone": {"norm_outputs": True},
    "neck": {"out_channels": 64, "num_outs": 4, "norm_cfg": _norm},
    "rpn_head": {
        "in_channels": 64,
        "feat_channels": 64,
        "anchor_generator": {"scales": [4], "strides": [4, 8, 16, 32]},
    },
    "roi_head": {
        "bbox_roi_extractor": {"out_channels": 64, "finest_scale": 20},
        "bbox_head": {"in_channels": 64, "fc_out_channels": 256, "num_classes": 10},
        "mask_roi_extractor": {"out_channels": 64, "finest_scale": 20},
        "mask_head": {
            "num_convs": 2,
            "in_channels": 64,
            "conv_out_channels": 64,
            "num_classes": 10,
            "norm_cfg": _norm,
        },
    },
    "train_cfg": {
        "rpn": {"sampler": {"num": 128}},
        "rpn_proposal": {"nms_pre": 400, "max_per_img": 200},
        "rcnn": {"sampler": {"num": 64}},
    },
    "test_cfg": {"rpn": {"nms_pre": 400, "max_per_img": 200}},
}
train_dataloader = {
    **_loader,
    "batch_size": 4,
    "drop_last": True,
    "batch_sampler": None,
    "dataset": {
        **_dataset,
        "pipeline": [
            {"type": "LoadImageFromFile"},
            _annotations,
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PackDetInputs"},
        ],
    },
}
val_dataloader = {
    **_loader,
    "batch_size": 4,
    "dataset": {
        **_dataset,
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "scale_factor": 1.0},  # mmdet wants to know by how much pictures were scaled
            _annotations,
            {
                "type": "PackDetInputs",
                "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            },
        ],
    },
}
test_dataloader = val_dataloader
val_evaluator = {"ann_file": f"{_root}/annotations/instances_val2017.json"}
test_evaluator = val_evaluator

analyze_sizes = [(128, 128)]
auto_scale_lr = {"enable": False}
train_cfg = {"max_epochs": 5}
optim_wrapper = {"optimizer": {"lr": 4e-4, "fused": True}, "clip_grad": {"max_norm": 5.0}}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 200},
    {"type": "CosineAnnealingLR", "eta_min_ratio": 0.01, "by_epoch": True, "begin": 0, "convert_to_iter_based": True},
]
