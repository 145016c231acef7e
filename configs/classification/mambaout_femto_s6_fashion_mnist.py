"""MambaOut-Femto with one selective scan on Fashion-MNIST. Fewer blocks: its last stage sees one token.

mixerzoo train classification/mambaout_femto_s6_fashion_mnist
"""

_base_ = "mambaout_femto_gatedcnn_fashion_mnist.py"
model = {"net": {"name": "mambaout_femto_s6"}}
