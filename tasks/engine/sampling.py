"""Which samples an epoch has, and what their augmentation is drawn from: functions of the seed and the place alone.

A sample's augmentation is drawn from generators seeded with (seed, epoch, copy, index of the image): the same
whichever process or worker loads it, so neither their number nor an interruption changes what a run is trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, DefaultSampler
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS
from torch.utils.data import default_collate, get_worker_info

from .hooks import seed_all

__all__ = ["SeededItems", "SeededSampler", "accept_seeds", "seeded"]


@FUNCTIONS.register_module(name="default_collate", force=True)
def collate(batch: Sequence[Any]) -> Any:
    """PyTorch's way to make a batch, in the place of mmengine's, which cannot say what does not fit.

    Raises:
        ValueError: pictures of several sizes.
    """
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    for sample in batch:
        parts = sample.items() if isinstance(sample, dict) else enumerate(sample)
        name = sample.get("name", "a picture") if isinstance(sample, dict) else "a picture"
        for key, part in parts:
            if isinstance(part, torch.Tensor):
                shape, other = shapes.setdefault(str(key), (tuple(part.shape), name))
                if shape != tuple(part.shape):
                    raise ValueError(
                        f"pictures of one batch must have one size: {other} has {shape}, {name} {tuple(part.shape)}; "
                        "set batch_size=1, or crop or resize both to one size in the data set's transform"
                    )
    return default_collate(list(batch))


@contextmanager
def seeded(key: int | tuple[int, ...]) -> Iterator[None]:
    """Seeds all generators with ``key`` while a sample is made; a plain index leaves them alone.

    Outside of workers this is the training process itself, whose own randomness is put back.
    """
    if not isinstance(key, tuple):
        yield
        return
    inside = get_worker_info() is None
    state = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if inside else None  # noqa: NPY002
    seed_all(*key)
    yield
    if state is not None:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        torch.set_rng_state(state[2])


class SeededItems:
    """Mixed into a data set of mmengine (``class Mine(SeededItems, BaseDataset)``): it takes `SeededSampler`'s keys."""

    def get_data_info(self, idx: int | tuple[int, ...]) -> dict[str, Any]:
        return super().get_data_info(idx[-1] if isinstance(idx, tuple) else idx)

    def __getitem__(self, idx: int | tuple[int, ...]) -> dict[str, Any]:
        with seeded(idx):
            return super().__getitem__(idx[-1] if isinstance(idx, tuple) else idx)


def accept_seeds(dataset: BaseDataset) -> None:
    """Makes a data set of mmengine, as it was built, take `SeededSampler`'s keys: `SeededItems` joins its bases."""
    if not isinstance(dataset, SeededItems):
        kind = type(dataset)
        dataset.__class__ = type(kind.__name__, (SeededItems, kind), {"__module__": kind.__module__})


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """mmengine's sampler, which gives every sample its seed along: ``(seed, epoch, copy, index)``.

    Args:
        *args: of `mmengine.dataset.DefaultSampler`.
        repeats: differently augmented copies of an image that follow each other (on several processes: that are in the
            same global batch), as DeiT trains (arXiv 2012.12877; repeated augmentation, arXiv 1901.09335). An epoch
            keeps its length, so it sees a part of the images.
        **kwargs: of `mmengine.dataset.DefaultSampler`.
    """

    def __init__(self, *args: Any, repeats: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.repeats = repeats

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        images = len(self.dataset)
        order = range(images)
        if self.shuffle:
            order = torch.randperm(images, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        for place in range(self.rank, self.total_size, self.world_size):
            image, copy = divmod(place, self.repeats)
            yield self.seed, self.epoch, copy, order[image % images]
