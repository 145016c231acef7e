"""Vim-S+ on ImageNet, as Vim-Ti+ (`vim_tiny_stride8_imagenet`; ft-vim-s.sh); published: 81.6 % top-1.

torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vim_small_stride8_imagenet --data IMAGENET --cfg-options model.net.pretrained=True \\
        --cfg-options "model.net.pretrained_cfg_overlay={'file': 'vim_s_midclstok_80p5acc.pth'}"
"""

_base_ = "vim_tiny_stride8_imagenet.py"
model = {"net": {"name": "vim_small_patch16_stride8_224"}}
