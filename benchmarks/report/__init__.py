"""What was measured as tables, pictures and one page, drawn from records alone."""

from __future__ import annotations
