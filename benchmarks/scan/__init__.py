"""The scans against other people's: `python -m mixerzoo.benchmarks.scan`."""

from __future__ import annotations
