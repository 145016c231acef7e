"""Hypothesis 2 of MambaOut (arXiv 2405.07992), short sequences: the token mixer is a gated convolution.

mixerzoo experiment segmentation/h2 --runs runs/h2_segmentation
"""

_base_ = "_base_/short.py"
model = {"backbone": {"name": "mambaout_femto_gatedcnn"}}
