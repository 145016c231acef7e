"""The DPT head on MambaOut-Femto with depthwise 7×7 convolution, on rendered rooms of 96×128.

mixerzoo train depth/mambaout_femto_gatedcnn_synthetic --data data/depth_rooms
"""

_base_ = "_base_/synthetic.py"
model = {"net": {"name": "mambaout_femto_gatedcnn", "depths": (1, 1, 3, 1)}}
