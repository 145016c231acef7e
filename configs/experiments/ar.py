"""Autoregressive pixels: does autoregression gain from a scan by itself, or where a convolution cannot reach?

    mixerzoo experiment ar --tune; mixerzoo experiment ar --run; mixerzoo experiment ar --report

The protocol is docs/protocol.md; the data set is tasks/synthetic/pixels.py (Fashion-MNIST, 16 grey levels). In the
family ``2d`` the local mixer is a masked 7×7 convolution; in ``1d`` a convolution over the last 7 tokens, while the
pixel above is 28 tokens away.
"""

title = "Autoregressive pixels: bits per pixel"
metric = "bits"
margin = 0.01
tolerance = 0.02
family = ["legend", "ar"]
rates = [2e-3, 4e-3, 8e-3]
seeds = list(range(10))
tuning_seeds = [100, 101]
train = {"clip": 1.0, "weight_decay": 0.01}

_network = {"patch_size": 1, "embed_dim": 32, "depth": 4, "global_pool": ""}
_two = ["s6_causal2d", "placebo_causal2d", "conv_causal2d", "identity"]
_one = ["s6_causal1d", "placebo_causal1d", "conv_causal1d"]


def _cell(side, steps, batch, mixers, task, control=None, tune=False):
    return {
        "task": task,
        "data": {"type": "pixels", "side": side},
        "network": _network,
        "steps": steps,
        "batch": batch,
        "test_size": 64,
        "mixers": mixers,
        "control": control,
        "tune": tune,
    }


cells = {
    "2d-784": _cell(28, 1200, 4, _two, "2d", {"mixers": ["conv_causal2d"], "threshold": 1.3}, tune=True),
    "1d-784": _cell(28, 1200, 4, _one, "1d", {"mixers": ["s6_causal1d"], "threshold": 1.5}, tune=True),
    "2d-196": _cell(14, 1200, 8, _two, "2d"),
    "2d-49": _cell(7, 1200, 16, _two, "2d"),
}

primary = [
    {
        "name": "P5",
        "label": "autoregressive pixels: scan against a second masked convolution",
        "terms": [(1, "2d-784", "s6_causal2d"), (-1, "2d-784", "placebo_causal2d")],
        "criterion": "+",
        "rival": "0",
    },
]
sanity = [
    {
        "name": "S2",
        "label": "autoregressive pixels, convolution along the sequence: scan against a second one",
        "terms": [(1, "1d-784", "s6_causal1d"), (-1, "1d-784", "placebo_causal1d")],
        "criterion": "+",
        "rival": "+",
    },
]
secondary = [
    {
        "name": f"2d-{length}",
        "label": f"autoregressive pixels, L = {length}: scan against a second masked convolution",
        "terms": [(1, f"2d-{length}", "s6_causal2d"), (-1, f"2d-{length}", "placebo_causal2d")],
    }
    for length in (49, 196, 784)
]
