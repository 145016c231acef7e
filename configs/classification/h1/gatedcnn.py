"""Hypothesis 1 of MambaOut (arXiv 2405.07992), small: the token mixer is depthwise convolution alone: MambaOut itself.

mixerzoo experiment classification/h1 --runs runs/h1
"""

_base_ = "../mambaout_femto_gatedcnn_fashion_mnist.py"
