"""DPT on NYU Depth v2.

In the folders and with the lists of the BTS line (arXiv 1907.10326): 24,231 frames to train, 654 to test.

Published: DPT-Hybrid from the released relative model δ1 0.904, AbsRel 0.109, RMSE 0.357 (isl-org/DPT, EVALUATION.md);
of a ViT-B trained from ImageNet weights, as DPT-Large is here, MDE-Toolbox reports AbsRel 0.135, RMSE 0.413.

    torchrun --standalone --nproc_per_node=2 -m mixerzoo.tasks.cli \\
        train depth/dpt_nyu --backbone dpt_hybrid --data NYU \\
        --cfg-options model.net.checkpoint=dpt_hybrid-midas-501f0c75.pt
    torchrun --standalone --nproc_per_node=2 -m mixerzoo.tasks.cli \\
        train depth/dpt_nyu --backbone dpt_large --data NYU --cfg-options model.net.pretrained=True

To measure the released model itself:
evaluate(create_depth_model("dpt_hybrid_384_nyu", checkpoint=FILE), data, PROTOCOL), see docs/depth.md.

Training: boundary crop, rotation by 2.5°, flip, 416×544 crop, brightness 0.75 to 1.25 (BTS, MDE-Toolbox). Test: whole
pictures at 480×640, the Eigen crop, a cap of 10 m. DPT's authors released no training code: see _base_/dpt.py.
"""

_base_ = "_base_/dpt.py"

run_name = "{backbone}_nyu"
backbone = "dpt_hybrid"
backbones = dict(
    # Inverse depth becomes metres with the scale and shift that the authors fitted to the relative model's predictions.
    dpt_hybrid=dict(name="dpt_hybrid_384_nyu"),
    # The blocks, channels and read-out of DPT-Large (arXiv 2103.13413, section 3).
    dpt_large=dict(name="vit_large_patch16_384.augreg_in21k_ft_in1k", channels=(256, 512, 1024, 1024), max_depth=10.0),
)

_convention = dict(height=480, width=640)
_loader = dict(num_workers=8, persistent_workers=True, collate_fn=dict(type="default_collate"))
_dataset = dict(type="NYU", root="data/nyu")

model = dict(net=backbones[backbone], convention=_convention, depth_range=(1e-3, 10.0))
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
