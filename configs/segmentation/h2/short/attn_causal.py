"""Hypothesis 2 of MambaOut (arXiv 2405.07992) on short sequences.

The token mixer is causal attention.

    mixerzoo experiment segmentation/h2/short --runs runs/h2_segmentation_short
"""

_base_ = "../../_base_/h2_short.py"
model = {"backbone": {"name": "mambaout_femto_attn_causal"}}
