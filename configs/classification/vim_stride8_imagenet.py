"""Vim on ImageNet with patches every 8 pixels: the released networks, fine-tuned.

ft-vim-t.sh and ft-vim-s.sh of the official repository at 4567f9d.

Published top-1 (arXiv 2401.09417, table 1): Vim-Ti+ 78.3 %, Vim-S+ 81.6 %.

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vim_stride8_imagenet --backbone vim_tiny_stride8 --data IMAGENET \\
        --cfg-options model.net.pretrained=True \\
        --cfg-options "model.net.pretrained_cfg_overlay={'file': 'vim_t_midclstok_76p1acc.pth'}"

Vim-S+ begins with vim_s_midclstok_80p5acc.pth. DeiT's augmentation at batch 1024 (8 processes × 128), 30 epochs at a
constant 1e-5 (lr 5e-6 per 512 images, warm-up and lowest rate 1e-5), weight decay 1e-8, no stochastic depth, no mixed
precision. The class token's position stays in the middle when the position embedding is resampled; the official script
takes the first one for it.
"""

_base_ = "deit_imagenet.py"

backbone = "vim_tiny_stride8"
backbones = dict(
    _delete_=True,
    vim_tiny_stride8=dict(name="vim_tiny_patch16_stride8_224", drop_path_rate=0.0),
    vim_small_stride8=dict(name="vim_small_patch16_stride8_224", drop_path_rate=0.0),
)
model = dict(net=backbones[backbone])
train_cfg = dict(max_epochs=30)
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=True)]
