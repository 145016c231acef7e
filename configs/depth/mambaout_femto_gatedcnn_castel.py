"""The DPT head on MambaOut-Femto, fine-tuned from rendered rooms on the castel frames.

    mixerzoo train depth/mambaout_femto_gatedcnn_castel --data data/castel \\
        --cfg-options load_from=RUN/epoch_N.pth
"""

_base_ = "_base_/castel.py"
model = {"net": {"name": "mambaout_femto_gatedcnn", "depths": (1, 1, 3, 1)}}
