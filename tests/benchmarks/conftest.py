"""A small comparison to draw reports from: counted for real, with timings made up."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from mixerzoo.benchmarks.counting.criterion import TASKS, Analyzer
from mixerzoo.benchmarks.report.comparison import Records
from mixerzoo.benchmarks.timing.case import Case, Row

MODELS = ("mambaout_femto_gatedcnn", "vit_tiny_patch16_224", "mambaout_femto_attn_causal", "mambaout_femto_pool")
INPUTS = ((224, 224), (160, 256))


def _analyses():
    for model in MODELS:
        analyzer = Analyzer(model)
        presets = [(None, size) for size in INPUTS] + [(task, size) for task, sizes in TASKS.items() for size in sizes]
        for task, size in presets:
            yield replace(analyzer.at(size, task=task), modules=())


def _row(model, image_size, index):
    rng = np.random.default_rng(index)
    rounds = (20.0 * (index + 1) * rng.uniform(0.98, 1.02, 12)).tolist()
    p50 = float(np.median(rounds))
    return Row(
        case=Case(model, image_size, batch=4, threads=2, photos="scikit-image"),
        status="ok",
        batch=4,
        p50_ms=p50,
        p90_ms=p50 * 1.02,
        ci_low_ms=min(rounds),
        ci_high_ms=max(rounds),
        images_per_s=4e3 / p50,
        gmacs=1.0 + index,
        gflop_per_s=2 * (1.0 + index) * 4e3 / p50,
        peak_memory_mib=50.0 * (index + 1),
        noise="drifting" if index == 1 else "quiet",
        samples=24,
        round_medians_ms=rounds,
        output_error=0.0,
        block="one" if image_size == INPUTS[0] else "two",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
    )


def _blocks():
    rows = []
    for tokens in (64, 256, 1024, 4096):
        for name, slowness in (("fused", 1.0), ("eager", 2.0)):
            share = slowness * tokens / (slowness * tokens + 1152)
            rows.append(
                {
                    "tokens": tokens,
                    "attention": name,
                    "attention_ms": 10 * share,
                    "rest_ms": 10 * (1 - share),
                    "time_share": share,
                    "time_share_p10": 0.9 * share,
                    "time_share_p90": min(1.0, 1.05 * share),
                    "flop_share": tokens / (tokens + 1152),
                    "attention_gflop_per_s": 40.0 / slowness,
                    "rest_gflop_per_s": 40.0,
                }
            )
    return {
        "dim": 192,
        "num_heads": 3,
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "rounds": 5,
        "rows": rows,
        "crossover_tokens": {
            "flops": 1152,
            "time": {"fused": {"tokens": 1152.0, "ci95": [1100.0, 1200.0]}, "eager": {"tokens": 576.0, "ci95": None}},
        },
        "left_out": [],
    }


@pytest.fixture(scope="session")
def _comparison():
    cases = [(model, size) for size in INPUTS for model in MODELS]
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    return Records(
        settings={
            "models": list(MODELS),
            "inputs": [list(size) for size in INPUTS],
            "batch": 4,
            "budget_s": 1.0,
            "photos": "scikit-image",
            "device": "cpu",
            "count_only": False,
        },
        analyses=list(_analyses()),
        rows=[_row(model, size, i) for i, (model, size) in enumerate(cases)],
        blocks=_blocks(),
        photos=[{"name": "a <b>photo</b>", "uri": pixel}],
        environment={
            "cpu": "a processor & its cores",
            "cores": 2,
            "affinity": [0, 1],
            "torch": "2",
            "gpu_driver": None,
        },
        created="2026-01-02T03:04:05+00:00",
        finished=True,
    )


@pytest.fixture
def records(_comparison):
    """Four models of different mixers at two input sizes and all task presets."""
    return copy.deepcopy(_comparison)
