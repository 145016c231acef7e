"""Fixtures of the whole suite."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would reach a hub fails at once instead of hanging
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # one test process per core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch.utils._device import _device_constructors

# `with torch.device(...)` knows the constructors it acts on by identity, from its first use on: a first use inside a
# test would note down the poisoned ones, and torch.empty would no longer follow the context.
_device_constructors()

POISONED = ("empty", "empty_like", "empty_strided", "empty_permuted")


def _poison(function):
    def poisoned(*args, **kwargs):
        out = function(*args, **kwargs)
        if out.is_floating_point() and not out.is_meta:
            with torch.no_grad():
                out.fill_(float("nan"))
        return out

    return poisoned


@pytest.fixture(autouse=True)
def poison_empty(request, monkeypatch):
    """Fills uninitialised memory with NaN, so that reading it fails the test; ``unpoisoned`` marks the exceptions."""
    torch.manual_seed(0)
    if request.node.get_closest_marker("unpoisoned"):
        return
    for name in POISONED:
        monkeypatch.setattr(torch, name, _poison(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", _poison(torch.Tensor.new_empty))
