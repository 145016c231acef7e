"""Hypothesis 1 of MambaOut (arXiv 2405.07992), small: does classification gain from a token mixer that remembers?

Measured here over three seeds: benchmarks/results/h1_amd_epyc.json.

    mixerzoo experiment classification_h1 --runs runs/h1

Nine token mixers in MambaOut-Femto and, as in the paper's figure 3b, ViT with fully visible and with causal attention,
on Fashion-MNIST by the recipe of classification/fashion_mnist."""

_base_ = "../classification/fashion_mnist.py"

seeds = 3
_mixers = ("attn", "attn_causal", "bis6", "gatedcnn", "identity", "pool", "s6", "ss2d", "ssd")
grid = dict(
    backbone=dict(
        **{mixer: f"mambaout_femto_{mixer}" for mixer in _mixers},
        vit="vit_tiny",
        vit_causal="vit_tiny_causal",
    )
)
