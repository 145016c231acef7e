"""Mask R-CNN with Vim-Tiny (arXiv 2401.09417) and ViTDet's pyramid, 1×.

Layer decay 0.837 and drop path 0.1 as in its authors' detection (det/ of the official repository at dd0358a). They
trained Cascade Mask R-CNN in ViTDet's frame (1024×1024 with large-scale jitter, batch 64), whose figures (45.7 box
AP, 39.2 mask AP for Vim-Ti) are not those of this one, in which all backbones here are compared.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vim_tiny_1x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_1x.py"
model = {
    "backbone": {
        "name": "vim_tiny_patch16_224",
        "pyramid": True,
        "norm_outputs": True,
        "drop_path_rate": 0.1,
        "init_cfg": {"type": "Pretrained", "checkpoint": "timm"},
    },
    "neck": {"in_channels": [48, 96, 192, 192]},
}
optim_wrapper = {"optimizer": {"layer_decay": 0.837}}
