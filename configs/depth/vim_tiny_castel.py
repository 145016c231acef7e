"""The DPT head on Vim-Tiny, fine-tuned from rendered rooms on the castel frames.

    mixerzoo train depth/vim_tiny_castel --data data/castel \\
        --cfg-options load_from=RUN/epoch_N.pth
"""

_base_ = "_base_/castel.py"
model = {"net": {"name": "vim_tiny_patch16_224", "img_size": (96, 128), "depth": 8}}
