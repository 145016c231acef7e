"""What a forward pass costs, counted exactly, and how that grows: the criterion."""

from __future__ import annotations
