"""Many short runs as one answer: `grid` says which, `run` trains them, `report` makes table and plot.

The runs take turns (all configs with the first seed, then all with the second, …), so that a machine whose speed
drifts favours none of them. Each run is a directory that `mixerzoo train` could have made; one that was broken off is
resumed, one that is done is kept.
"""

from __future__ import annotations
