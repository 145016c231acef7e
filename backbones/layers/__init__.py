"""Blocks that several families share."""

from __future__ import annotations
