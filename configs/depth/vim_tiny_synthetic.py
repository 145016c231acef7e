"""The DPT head on Vim-Tiny with 8 of its 24 blocks (patches of 16×16 pixels: 48 tokens), on rendered rooms of 96×128.

Twelve epochs of 4,000 rooms end at AbsRel 0.110 and overfit; five epochs of 16,000 end below 0.10 (docs/depth.md). With
`--amp bfloat16` they take 21 minutes of two cores.

mixerzoo train depth/vim_tiny_synthetic --amp bfloat16
"""

_base_ = "_base_/synthetic_16000.py"
model = {"net": {"name": "vim_tiny_patch16_224", "img_size": (96, 128), "depth": 8}}
train_cfg = {"max_epochs": 5}
