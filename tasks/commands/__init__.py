"""The commands that train and use a network: one module each, whose ``command`` imports torch only when it runs."""

from __future__ import annotations
