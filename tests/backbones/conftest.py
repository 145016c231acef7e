"""Weights of official files, made once per module."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens


@pytest.fixture(scope="module")
def official():
    """Goldens by name; the weights that two of them share are drawn once."""
    known: dict[tuple, torch.Tensor] = {}

    def draw(key, shape):
        if (key, shape) not in known:
            known[key, shape] = original(key, shape)
        return known[key, shape]

    original, goldens.weights = goldens.weights, draw
    yield goldens.load
    goldens.weights = original
