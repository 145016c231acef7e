"""MambaOut-Femto with causal attention on Fashion-MNIST. Fewer blocks: its last stage sees one token.

mixerzoo train classification/mambaout_femto_attn_causal_fashion_mnist
"""

_base_ = "mambaout_femto_gatedcnn_fashion_mnist.py"
model = {"net": {"name": "mambaout_femto_attn_causal"}}
