"""Map legends: does a task gain from a scan because it is long (L > 6D), or because its label is far away?

    mixerzoo experiment legend --tune; mixerzoo experiment legend --run; mixerzoo experiment legend --report

The protocol is docs/protocol.md; the data set is tasks/synthetic/legend.py. L is side², D is embed_dim, 6D is 192 at 32
channels. Cells are in the order in which they are to be run.
"""

title = "Map legends: accuracy per token"
metric = "accuracy"
margin = 0.02
tolerance = 0.02
family = ["legend", "ar"]
rates = [2e-3, 4e-3, 8e-3]
seeds = list(range(10))
tuning_seeds = [100, 101]
train = {"clip": 1.0, "weight_decay": 0.01}

_network = {"patch_size": 1, "embed_dim": 32, "depth": 2, "global_pool": ""}
_attention = {"mixers": ["attn", "conv_attn"], "threshold": 0.95}
_one_attention = {"mixers": ["attn"], "threshold": 0.95}  # where conv_attn is not run
_few = ["s6", "placebo", "attn", "identity"]
_many = [*_few, "gatedcnn", "globalconv", "conv_attn", "ncssd", "linear", "bis6"]


def _far(side, steps, batch, test_size, mixers, dim=32, control=_attention, **data):
    return {
        "task": "far",
        "data": {"type": "legend", "side": side, **data},
        "network": {**_network, "embed_dim": dim},
        "steps": steps,
        "batch": batch,
        "test_size": test_size,
        "mixers": mixers,
        "control": control,
    }


cells = {
    "far-196": {**_far(14, 2000, 8, 128, _many), "tune": True},
    "far-196-d64": _far(14, 2000, 8, 128, _few, dim=64, control=_one_attention),
    "load-196": {
        **_far(14, 2000, 8, 128, ["s6", "globalconv", "attn", "conv_attn", "ncssd"], keys=8, values=8),
        "task": "load",
        "tune": True,
    },
    "tiled-784": {
        **_far(28, 4000, 2, 32, ["s6", "placebo", "gatedcnn"], tile=7),
        "task": "tiled",
        "control": {"mixers": ["gatedcnn", "placebo"], "threshold": 0.5},
        "tune": True,
    },
    "local-784": {
        **_far(28, 400, 4, 32, ["s6", "placebo", "gatedcnn", "identity"], label="local"),
        "task": "local",
        "control": {"mixers": ["gatedcnn"], "threshold": 0.95},
        "tune": True,
    },
    "far-784": _far(28, 2000, 4, 32, _many),
    "bottom-196": _far(14, 2000, 8, 128, ["s6"], legend="bottom", control=None),
    "far-196-d16": _far(14, 2000, 8, 128, _few, dim=16, control=_one_attention),
    "far-49": _far(7, 2000, 16, 256, _many, control=None),
}

primary = [
    {
        "name": "P1",
        "label": "far label, L/6D = 0.51: scan against placebo",
        "terms": [(1, "far-196-d64", "s6"), (-1, "far-196-d64", "placebo")],
        "criterion": "0",
        "rival": "+",
    },
    {
        "name": "P2",
        "label": "784 tokens in tiles of 49, L/6D = 4.1: scan against placebo",
        "terms": [(1, "tiled-784", "s6"), (-1, "tiled-784", "placebo")],
        "criterion": "+",
        "rival": "0",
    },
    {
        "name": "P3",
        "label": "784 tokens, local label, L/6D = 4.1: scan against placebo",
        "terms": [(1, "local-784", "s6"), (-1, "local-784", "placebo")],
        "criterion": "+",
        "rival": "0",
    },
    {
        "name": "P4",
        "label": "scan against global convolution: at load 64 more than at load 16",
        "terms": [
            (1, "load-196", "s6"),
            (-1, "load-196", "globalconv"),
            (-1, "far-196", "s6"),
            (1, "far-196", "globalconv"),
        ],
        "criterion": "",
        "rival": "+",
    },
]
sanity = [
    {
        "name": "S1",
        "label": "far label, L/6D = 4.1: scan against placebo",
        "terms": [(1, "far-784", "s6"), (-1, "far-784", "placebo")],
        "criterion": "+",
        "rival": "+",
    },
]
secondary = [
    {
        "name": f"L{side * side}-D{dim}",
        "label": f"far label, L = {side * side}, D = {dim}: scan against placebo",
        "terms": [(1, cell, "s6"), (-1, cell, "placebo")],
    }
    for cell, side, dim in (
        ("far-49", 7, 32),
        ("far-196", 14, 32),
        ("far-784", 28, 32),
        ("far-196-d16", 14, 16),
        ("far-196-d64", 14, 64),
    )
]
