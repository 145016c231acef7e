"""ADE20K (Zhou et al., CVPR 2017) as the papers train on it: images scaled by 0.5 to 2 about a short side of 512, crops
of 512×512 with at most 75 % of one class, mirrored, recoloured; tested whole at a short side of 512.

`data_root` is the release's folder, with `images/` and `annotations/` in it. `batch_size` is per process: 8 × 2.
"""

_train = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
_test = [  # the label file is read after resizing, because predictions are measured at its size
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
analyze_sizes = ((512, 2048),)  # where papers count, since Swin (arXiv 2103.14030, table 3)
_dataset = dict(type="SeededADE20K", data_root="data/ade/ADEChallengeData2016")

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=_train,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=_test,
    ),
)
test_dataloader = val_dataloader
