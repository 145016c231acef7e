"""Hypothesis 1 of MambaOut (arXiv 2405.07992), small: the token mixer is attention over all tokens.

mixerzoo experiment classification/h1 --runs runs/h1
"""

_base_ = "../mambaout_femto_attn_fashion_mnist.py"
