"""Hypothesis 2 of MambaOut (arXiv 2405.07992), short sequences: the token mixer is SS2D.

mixerzoo experiment detection/h2 --runs runs/h2_detection
"""

_base_ = "_base_/short.py"
model = {"backbone": {"name": "mambaout_femto_ss2d"}}
