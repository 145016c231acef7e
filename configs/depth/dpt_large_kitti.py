"""DPT-Large on KITTI, from ImageNet weights; for a ViT-B so trained MDE-Toolbox reports AbsRel 0.073, RMSE 2.604.

torchrun --standalone --nproc_per_node=2 -m mixerzoo.tasks.cli train depth/dpt_large_kitti --data KITTI \\
        --cfg-options model.net.pretrained=True
"""

_base_ = "_base_/dpt_kitti.py"
# The blocks, channels and read-out of DPT-Large (arXiv 2103.13413, section 3).
model = {
    "net": {
        "name": "vit_large_patch16_384.augreg_in21k_ft_in1k",
        "channels": (256, 512, 1024, 1024),
        "max_depth": 80.0,
    }
}
