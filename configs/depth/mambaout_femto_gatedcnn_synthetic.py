"""The DPT head on MambaOut-Femto with depthwise 7×7 convolution and fewer blocks, on rendered rooms of 96×128.

Measured with seed 0 on 200 held-out rooms: AbsRel 0.0971, δ1 0.930, RMSE 0.435 m, after 13 minutes of one CPU core.

mixerzoo train depth/mambaout_femto_gatedcnn_synthetic --data data/depth_rooms
"""

_base_ = "_base_/synthetic.py"
model = {"net": {"name": "mambaout_femto_gatedcnn", "depths": (1, 1, 3, 1)}}
