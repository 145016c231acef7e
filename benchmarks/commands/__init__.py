"""What the terminal shows: one module per command, each with a ``command`` that imports torch only when it runs."""

from __future__ import annotations
