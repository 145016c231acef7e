"""Vim-S+ on ImageNet: the released Vim of 80.5 %, fine-tuned with patches every 8 pixels; published: 81.6 % top-1.

ft-vim-s.sh of the official repository at 4567f9d: DeiT's augmentation at batch 1024 (8 processes × 128), 30 epochs at a
constant 1e-5 (lr 5e-6 per 512 images, warm-up and lowest rate 1e-5), weight decay 1e-8, no stochastic depth, no mixed
precision. The class token's position stays in the middle when the position embedding is resampled; the official script
takes the first one for it.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vim_small_stride8_imagenet --data IMAGENET --cfg-options model.net.pretrained=True \\
        --cfg-options "model.net.pretrained_cfg_overlay={'file': 'vim_s_midclstok_80p5acc.pth'}"
"""

_base_ = "_base_/deit_imagenet.py"
train_cfg = {"max_epochs": 30}
optim_wrapper = {"optimizer": {"lr": 1e-5, "weight_decay": 1e-8}}
param_scheduler = [{"type": "ConstantLR", "factor": 1.0, "by_epoch": True}]
model = {"net": {"name": "vim_small_patch16_stride8_224", "drop_path_rate": 0.0}}
