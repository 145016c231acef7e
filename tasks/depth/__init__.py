"""Monocular depth."""

from __future__ import annotations
