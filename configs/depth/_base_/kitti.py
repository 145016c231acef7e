"""KITTI raw with the improved ground truth, lists of the BTS line (arXiv 1907.10326): 23,158 frames to train, and the
652 of Eigen's 697 test frames that have it.

Training: KB crop, rotation by 2.5°, flip, 352×704 crop, gamma, brightness and colour 0.9 to 1.1 (BTS, MDE-Toolbox).
Test: the KB crop pasted into the whole picture, Garg crop, a cap of 80 m (protocol `kitti_bts`).
"""

_base_ = ["../../_base_/runtime.py", "depth.py"]
_convention = dict(height=352, width=1216, kb_crop=True)
_loader = dict(num_workers=8, persistent_workers=True, collate_fn=dict(type="default_collate"))
_dataset = dict(type="KITTI", root="data/kitti", depth_root="data_depth_annotated")

model = dict(convention=_convention, depth_range=(1e-3, 80.0))
train_dataloader = dict(
    **_loader,
    batch_size=8,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", shuffle=True),
    dataset=dict(
        **_dataset,
        files="eigen_train_files_with_gt.txt",
        transform=dict(type="kitti_training", convention=_convention),
    ),
)
val_dataloader = test_dataloader = dict(
    **_loader,
    batch_size=1,  # KITTI's pictures differ in size
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **_dataset,
        files="eigen_test_files_with_gt.txt",
        transform=dict(type="evaluation", convention=_convention),
    ),
)
val_evaluator = test_evaluator = dict(type="DepthScore", protocol="kitti_bts")
