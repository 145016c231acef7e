"""Names of the token mixers: what makes ``mambaout_{size}_{mixer}`` open to new mixers without a change to the family.

A mixer maps ``(B, H, W, D)`` to ``(B, H, W, D)`` and is built by ``Mixer(dim, device=..., dtype=...)``, with
``backend=...``, too, if its kind is ``scan``. Two class
attributes say what it is: ``kind`` (``convolution``, ``attention``, ``pooling``, ``identity`` or ``scan``) and
``causal`` (whether a token sees only itself and the tokens before it in row-major order). A mixer whose weights depend
on the size of the map has ``needs_grid = True`` and takes ``grid=(H, W)`` as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Mixer = TypeVar("Mixer", bound=type[nn.Module])

_MIXERS: dict[str, type[nn.Module]] = {}
_CONTROLS: set[str] = set()


def register_mixer(name: str, *, control: bool = False) -> Callable[[Mixer], Mixer]:
    """Class decorator: makes a mixer known as ``name``; a reloaded module registers its classes anew.

    Args:
        name: its name.
        control: made for the controlled experiments on isotropic networks (`mixerzoo.backbones.isotropic`); MambaOut's
            family does without it.

    Raises:
        ValueError: another class has ``name``.
    """

    def register(cls: Mixer) -> Mixer:
        known = _MIXERS.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"token mixer {name!r} is already registered by {known.__qualname__}")
        _MIXERS[name] = cls
        if control:
            _CONTROLS.add(name)
        return cls

    return register


def mixer_class(name: str) -> type[nn.Module]:
    """The class registered as ``name``.

    Raises:
        ValueError: no such mixer; the message lists those that exist.
    """
    if name not in _MIXERS:
        near = difflib.get_close_matches(name, _MIXERS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown token mixer {name!r}{hint} (known: {', '.join(sorted(_MIXERS))})")
    return _MIXERS[name]


def list_mixers(controls: bool = False) -> list[str]:
    """Registered names, in the order of registration; those of `register_mixer`'s ``control`` only if ``controls``."""
    return [name for name in _MIXERS if controls or name not in _CONTROLS]
