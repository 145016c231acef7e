"""Packaged mmengine configs, one folder per task; ``mixerzoo train`` finds them by name."""

from __future__ import annotations
