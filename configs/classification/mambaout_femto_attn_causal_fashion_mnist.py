"""MambaOut-Femto with causal attention on Fashion-MNIST. Fewer blocks: its last stage sees one token.

mixerzoo train classification/mambaout_femto_attn_causal_fashion_mnist
"""

_base_ = ["../_base_/runtime.py", "_base_/classification.py", "_base_/fashion_mnist.py", "_base_/fashion_schedule.py"]
model = {
    "type": "Classifier",
    "num_classes": 10,
    "net": {"name": "mambaout_femto_attn_causal", "in_chans": 1, "depths": (1, 1, 3, 1)},
}
