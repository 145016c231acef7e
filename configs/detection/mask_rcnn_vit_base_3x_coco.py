"""Mask R-CNN with DeiT-B (arXiv 2012.12877) and ViTDet's pyramid, 3× with multiple scales.

Layer decay 0.7 and drop path 0.1 as ViTDet's ViT-B (arXiv 2203.16527, appendix A.2); unlike there, attention is
global in every block, and size and schedule are those that all backbones here are compared in.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train detection/mask_rcnn_vit_base_3x_coco --data COCO
"""

_base_ = "_base_/mask_rcnn_3x.py"
model = dict(
    backbone=dict(
        name="deit_base_patch16_224.fb_in1k",
        pyramid=True,
        norm_outputs=True,
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="timm"),
    ),
    neck=dict(in_channels=[192, 384, 768, 768]),
)
optim_wrapper = dict(optimizer=dict(layer_decay=0.7))
