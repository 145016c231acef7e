"""The DPT head on ViT-Tiny (patches of 16×16 pixels: 48 tokens), on rendered rooms of 96×128.

mixerzoo train depth/vit_tiny_synthetic --data data/depth_rooms
"""

_base_ = "_base_/synthetic.py"
model = {"net": {"name": "vit_tiny_patch16_224", "img_size": (96, 128)}}
