"""Hypothesis 1 of MambaOut (arXiv 2405.07992, figure 3b), small: ViT with causal attention.

mixerzoo experiment classification/h1 --runs runs/h1
"""

_base_ = "../vit_tiny_causal_fashion_mnist.py"
