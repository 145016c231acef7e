"""Experiments that answer a question: a grid of paired runs, tuned, run and judged by a protocol written beforehand.

`grid` says what an experiment consists of (``configs/experiments/``), `train` makes one run, `runs` makes all of
them, `statistics` judges differences, `report` writes tables, verdicts and pictures.
"""

from __future__ import annotations
