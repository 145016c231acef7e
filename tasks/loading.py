"""The rule of `pictures` in the place of mmcv's loader: every pipeline of mmcv, mmdet and mmseg reads through it.

Importing this module registers it as ``LoadImageFromFile``.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import mmcv.transforms
import numpy as np
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from .pictures import read_picture, turned

__all__ = ["LoadImageFromFile"]


@TRANSFORMS.register_module(force=True)
class LoadImageFromFile(mmcv.transforms.LoadImageFromFile):
    """Reads ``img_path`` as BGR, uint8 (H, W, 3); mmcv's own clips 16 bits and dies of some formats.

    ``color_type``s other than ``color`` and ``grayscale`` are mmcv's business still: they ask for a file as it is
    stored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture that can be read, or not of the ``height`` and ``width`` that its annotations state.
    """

    MODES = {"color": "RGB", "grayscale": "L"}  # noqa: RUF012

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        mode, path = self.MODES.get(self.color_type), results["img_path"]
        if mode is None:
            return super().transform(results)
        try:
            picture = read_picture(BytesIO(fileio.get(path, backend_args=self.backend_args)), mode, str(path))
        except FileNotFoundError:
            if self.ignore_empty:
                return None
            raise FileNotFoundError(f"{path}: no such picture") from None
        except ValueError:
            if self.ignore_empty:
                return None
            raise
        stated = results.get("width", picture.width), results.get("height", picture.height)
        if picture.size != stated:
            size = f"{picture.width}×{picture.height}{turned(picture)}"
            raise ValueError(
                f"{path}: {size}, but its annotations are for {stated[0]}×{stated[1]}; correct the size that they "
                "state, with boxes and masks on the picture as viewers show it"
            )
        pixels = np.asarray(picture)  # (H, W, 3) or (H, W)
        pixels = np.ascontiguousarray(pixels[..., ::-1]) if mode == "RGB" else pixels.copy()
        results["img"] = pixels.astype(np.float32) if self.to_float32 else pixels
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results
