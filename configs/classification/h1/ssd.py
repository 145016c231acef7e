"""Hypothesis 1 of MambaOut (arXiv 2405.07992), small: the token mixer is state-space duality (Mamba-2).

mixerzoo experiment classification/h1 --runs runs/h1
"""

_base_ = "../mambaout_femto_ssd_fashion_mnist.py"
