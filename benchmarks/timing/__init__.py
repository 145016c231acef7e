"""How long a network takes on this machine, and how sure that is."""

from __future__ import annotations
