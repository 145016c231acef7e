"""Hypothesis 2 of MambaOut (arXiv 2405.07992) on long sequences.

The token mixer is nothing at all.

    mixerzoo experiment segmentation/h2/long --runs runs/h2_segmentation_long
"""

_base_ = "../../_base_/h2_long.py"
model = {"backbone": {"name": "mambaout_femto_identity"}}
