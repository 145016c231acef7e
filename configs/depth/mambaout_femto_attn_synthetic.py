"""The DPT head on MambaOut-Femto with fully visible attention, on rendered rooms of 96×128.

mixerzoo train depth/mambaout_femto_attn_synthetic --data data/depth_rooms
"""

_base_ = "mambaout_femto_gatedcnn_synthetic.py"
model = {"net": {"name": "mambaout_femto_attn"}}
