"""DPT on KITTI raw with the improved ground truth.

Lists of the BTS line (arXiv 1907.10326): 23,158 frames to train, and the 652 of Eigen's 697 test frames that have it.

Published: DPT-Hybrid from the released relative model δ1 0.959, AbsRel 0.062, RMSE 2.575 (isl-org/DPT, EVALUATION.md);
of a ViT-B trained from ImageNet weights, as DPT-Large is here, MDE-Toolbox reports AbsRel 0.073, RMSE 2.604.

    torchrun --standalone --nproc_per_node=2 -m mixerzoo.tasks.cli \\
        train depth/dpt_kitti --backbone dpt_hybrid --data KITTI \\
        --cfg-options model.net.checkpoint=dpt_hybrid-midas-501f0c75.pt
    torchrun --standalone --nproc_per_node=2 -m mixerzoo.tasks.cli \\
        train depth/dpt_kitti --backbone dpt_large --data KITTI --cfg-options model.net.pretrained=True

To measure the released model itself:
evaluate(create_depth_model("dpt_hybrid_384_kitti", checkpoint=FILE), data, PROTOCOL), see docs/depth.md.

Training: KB crop, rotation by 2.5°, flip, 352×704 crop, gamma, brightness and colour 0.9 to 1.1 (BTS, MDE-Toolbox).
Test: the KB crop pasted into the whole picture, Garg crop, a cap of 80 m (protocol `kitti_bts`). DPT's authors released
no training code: see _base_/dpt.py.
"""

_base_ = "_base_/dpt.py"

run_name = "{backbone}_kitti"
backbone = "dpt_hybrid"
backbones = dict(
    # Inverse depth becomes metres with the scale and shift that the authors fitted to the relative model's predictions.
    dpt_hybrid=dict(name="dpt_hybrid_384_kitti"),
    # The blocks, channels and read-out of DPT-Large (arXiv 2103.13413, section 3).
    dpt_large=dict(name="vit_large_patch16_384.augreg_in21k_ft_in1k", channels=(256, 512, 1024, 1024), max_depth=80.0),
)

_convention = dict(height=352, width=1216, kb_crop=True)
_loader = dict(num_workers=8, persistent_workers=True, collate_fn=dict(type="default_collate"))
_dataset = dict(type="KITTI", root="data/kitti", depth_root="data_depth_annotated")

model = dict(net=backbones[backbone], convention=_convention, depth_range=(1e-3, 80.0))
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
