"""Hypothesis 1 of MambaOut (arXiv 2405.07992), small: the token mixer is a 3×3 average.

mixerzoo experiment classification/h1 --runs runs/h1
"""

_base_ = "../mambaout_femto_pool_fashion_mnist.py"
