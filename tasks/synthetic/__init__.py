"""Data sets made here: map legends, pixels in raster order, composed scenes, rooms and streets with exact depth, and
small real ones that Debian packs.

python -m mixerzoo.tasks.synthetic.legend --help
python -m mixerzoo.tasks.synthetic.composed --help
python -m mixerzoo.tasks.synthetic.rooms --help
python -m mixerzoo.tasks.synthetic.sources --help
"""

from __future__ import annotations
