"""Hypothesis 2 (arXiv 2405.07992) for a CPU, short sequences: the token mixer is VMamba's four selective scans.

mixerzoo experiment detection/h2_reduced --runs runs/h2_detection_reduced
"""

_base_ = "_base_/short.py"
model = {"backbone": {"name": "mambaout_femto_ss2d"}}
