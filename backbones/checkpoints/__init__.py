"""Files of weights: what others wrote is read without running anything in it, unwrapped, fitted, and written back."""

from __future__ import annotations

from .loading import WeightFile, load_state, load_weights, through_our_reader, top_names
from .reading import read_checkpoint
from .unwrapping import bare_names, unwrap
from .writing import convert, replacing, write_atomically

__all__ = [
    "WeightFile",
    "bare_names",
    "convert",
    "load_state",
    "load_weights",
    "read_checkpoint",
    "replacing",
    "through_our_reader",
    "top_names",
    "unwrap",
    "write_atomically",
]
