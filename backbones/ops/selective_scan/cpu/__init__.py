"""The C kernel and its launch."""

from __future__ import annotations
