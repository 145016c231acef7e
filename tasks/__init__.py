"""What a network is trained for: one engine (mmengine's Runner) and one folder per task."""

from __future__ import annotations
