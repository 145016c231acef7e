"""Hypothesis 2 (arXiv 2405.07992) for a CPU, long sequences: the token mixer is nothing at all.

mixerzoo experiment detection/h2_reduced --runs runs/h2_detection_reduced
"""

_base_ = "_base_/long.py"
model = {"backbone": {"name": "mambaout_femto_identity"}}
