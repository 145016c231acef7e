"""Hypothesis 1 of MambaOut (arXiv 2405.07992), small: the token mixer is no token mixer at all: the baseline.

mixerzoo experiment classification/h1 --runs runs/h1
"""

_base_ = "../mambaout_femto_identity_fashion_mnist.py"
