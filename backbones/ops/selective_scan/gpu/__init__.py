"""The Triton kernels and their launch."""

from __future__ import annotations
