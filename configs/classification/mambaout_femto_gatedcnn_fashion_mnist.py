"""MambaOut-Femto with depthwise 7×7 convolution on Fashion-MNIST. Fewer blocks: its last stage sees one token.

Measured with seed 0 on two cores of an Intel Xeon at 2.8 GHz: 90.4 % top-1 on the 10,000 test images after four epochs
and 492 s.

    mixerzoo train classification/mambaout_femto_gatedcnn_fashion_mnist
"""

_base_ = ["../_base_/runtime.py", "_base_/fashion_mnist.py", "_base_/fashion_schedule.py"]
model = {
    "type": "Classifier",
    "num_classes": 10,
    "net": {"name": "mambaout_femto_gatedcnn", "in_chans": 1, "depths": (1, 1, 3, 1)},
}
