"""Hypothesis 1 of MambaOut (arXiv 2405.07992), small: the token mixer is selective scans along four routes.

mixerzoo experiment classification/h1 --runs runs/h1
"""

_base_ = "../mambaout_femto_ss2d_fashion_mnist.py"
