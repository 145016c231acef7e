"""ViT-Tiny with causal attention on Fashion-MNIST: patches of 4×4 pixels (49 tokens), six blocks.

mixerzoo train classification/vit_tiny_causal_fashion_mnist
"""

_base_ = "vit_tiny_fashion_mnist.py"
model = {"net": {"name": "vit_tiny_patch16_224_causal"}}
