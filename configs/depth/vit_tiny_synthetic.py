"""The DPT head on ViT-Tiny with 8 of its 12 blocks (patches of 16×16 pixels: 48 tokens), on rendered rooms of 96×128.

Four epochs take the CPU time of five of the hierarchical networks, and are not enough. Measured with seed 0 on 200
held-out rooms: AbsRel 0.136, δ1 0.841. A LayerNorm on each tap changed nothing after one epoch (SILog 16.7 against
16.4), nor did patches of 8×8 pixels with 4 blocks after two (16.0 against 16.1).

mixerzoo train depth/vit_tiny_synthetic --data data/depth_rooms
"""

_base_ = "_base_/synthetic.py"
model = {"net": {"name": "vit_tiny_patch16_224", "img_size": (96, 128), "depth": 8}}
train_cfg = {"max_epochs": 4}
