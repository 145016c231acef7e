"""The DPT head on ViT-Tiny with 8 of its 12 blocks (patches of 16×16 pixels: 48 tokens), on rendered rooms of 96×128.

Four epochs take the CPU time of five of the hierarchical networks.

mixerzoo train depth/vit_tiny_synthetic --data data/depth_rooms
"""

_base_ = "_base_/synthetic.py"
model = {"net": {"name": "vit_tiny_patch16_224", "img_size": (96, 128), "depth": 8}}
train_cfg = {"max_epochs": 4}
