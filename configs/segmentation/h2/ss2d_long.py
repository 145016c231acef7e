"""Hypothesis 2 of MambaOut (arXiv 2405.07992), long sequences: the token mixer is VMamba's four selective scans.

mixerzoo experiment segmentation/h2 --runs runs/h2_segmentation
"""

_base_ = "_base_/long.py"
model = {"backbone": {"name": "mambaout_femto_ss2d"}}
