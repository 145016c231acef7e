"""Hypothesis 1 of MambaOut (arXiv 2405.07992): short, not autoregressive, image classification does not need a scan.

    mixerzoo experiment h1 --tune; mixerzoo experiment h1 --run; mixerzoo experiment h1 --report

An equivalence test. Fashion-MNIST in 196 patches of 2×2 pixels at D = 48: L/6D = 0.68 is short by the criterion. 6,000
training and all 10,000 test images, 8 paired seeds. In ``permuted`` all patches change places in the same way: the
convolution loses its neighbourhoods, the identity loses nothing.
"""

title = "Fashion-MNIST in 196 patches: accuracy"
metric = "accuracy"
margin = 0.02
tolerance = 0.02
family = ["h1"]
rates = [2e-3, 4e-3, 8e-3]
seeds = list(range(8))
tuning_seeds = [100, 101]
train = {"clip": 1.0, "weight_decay": 0.05}


def _cell(permuted, tune, control):
    return {
        "task": "classification",
        "data": {"type": "patches", "patch_size": 2, "permuted": permuted},
        "network": {"patch_size": 2, "embed_dim": 48, "depth": 2},
        "steps": 1000,
        "batch": 16,
        "test_size": 10000,
        "mixers": ["identity", "gatedcnn", "s6", "attn"],
        "control": control,
        "tune": tune,
        "points": 5,
    }


cells = {
    "ordered": _cell(False, True, {"mixers": ["gatedcnn", "s6", "attn"], "threshold": 0.80}),
    "permuted": _cell(True, False, {"mixers": ["identity", "gatedcnn", "s6", "attn"], "threshold": 0.70}),
}

primary = [
    {
        "name": "H1a",
        "label": "scan against convolution",
        "terms": [(1, "ordered", "s6"), (-1, "ordered", "gatedcnn")],
        "criterion": "0",
    },
    {
        "name": "H1b",
        "label": "attention against convolution",
        "terms": [(1, "ordered", "attn"), (-1, "ordered", "gatedcnn")],
        "criterion": "0",
    },
]
sanity = [
    {
        "name": "M1",
        "label": "any mixing at all: convolution against identity",
        "terms": [(1, "ordered", "gatedcnn"), (-1, "ordered", "identity")],
        "criterion": "+",
        "rival": "+",
    },
    {
        "name": "M2",
        "label": "neighbourhood: convolution against identity, in order more than permuted",
        "terms": [
            (1, "ordered", "gatedcnn"),
            (-1, "ordered", "identity"),
            (-1, "permuted", "gatedcnn"),
            (1, "permuted", "identity"),
        ],
        "criterion": "+",
        "rival": "+",
    },
]
secondary = []
