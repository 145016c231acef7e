"""MambaOut-Femto with no token mixer on Fashion-MNIST. Fewer blocks: its last stage sees one token.

mixerzoo train classification/mambaout_femto_identity_fashion_mnist
"""

_base_ = "mambaout_femto_gatedcnn_fashion_mnist.py"
model = {"net": {"name": "mambaout_femto_identity"}}
