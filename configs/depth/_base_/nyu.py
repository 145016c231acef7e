"""NYU Depth v2 in the folders and lists of the BTS line (arXiv 1907.10326): 24,231 frames to train, 654 to test.

Training: boundary crop, rotation by 2.5°, flip, 416×544 crop, brightness 0.75 to 1.25 (BTS, MDE-Toolbox). Test: whole
pictures at 480×640, the Eigen crop, a cap of 10 m.
"""

_base_ = ["../../_base_/runtime.py", "depth.py"]
_convention = dict(height=480, width=640)
_loader = dict(num_workers=8, persistent_workers=True, collate_fn=dict(type="default_collate"))
_dataset = dict(type="NYU", root="data/nyu")

model = dict(convention=_convention, depth_range=(1e-3, 10.0))
train_dataloader = dict(
    **_loader,
    batch_size=8,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(
        **_dataset,
        files="nyudepthv2_train_files_with_gt.txt",
        transform=dict(type="nyu_training", convention=_convention),
    ),
)
val_dataloader = test_dataloader = dict(
    **_loader,
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **_dataset,
        files="nyudepthv2_test_files_with_gt.txt",
        transform=dict(type="evaluation", convention=_convention),
    ),
)
val_evaluator = test_evaluator = dict(type="DepthScore", protocol="nyu")
