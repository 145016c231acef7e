"""Data sets of segmentation whose augmentation follows from seed and place alone (see `engine.sampling`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.sampling import SeededItems
from ..extras import require_mm
from ..synthetic.composed import ADE_CLASSES

require_mm()

from mmseg.datasets import ADE20KDataset, BaseSegDataset  # noqa: E402
from mmseg.datasets import transforms as mmseg_transforms  # noqa: E402
from mmseg.registry import DATASETS, TRANSFORMS  # noqa: E402

from .. import loading  # noqa: E402, F401  (registers the one loader of pictures)

__all__ = ["ComposedSegmentation", "SeededADE20K", "SeededSegmentation"]

# Background grey, then matplotlib's tab10 without its grey, and black for the last.
PALETTE = [
    [127, 127, 127], [31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75],
    [227, 119, 194], [188, 189, 34], [23, 190, 207], [0, 0, 0],
]  # fmt: skip


@TRANSFORMS.register_module(force=True)
class LoadAnnotations(mmseg_transforms.LoadAnnotations):
    """mmseg's, which names the file that does not fit its picture or the classes.

    Raises:
        ValueError: not a label file that can be read, of another size than its picture, or a label beyond the classes.
    """

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        path = results["seg_map_path"]
        try:
            super()._load_seg_map(results)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such label file") from None
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's
            raise ValueError(f"{path}: not a label file that can be read: {error}") from error
        labels, picture = results["gt_seg_map"], results.get("ori_shape")
        if picture is not None and labels.shape != tuple(picture):
            size = f"{labels.shape[1]}×{labels.shape[0]}" if labels.ndim == 2 else f"{labels.shape[2:]} channels"
            raise ValueError(
                f"{path}: {size} pixels, but its picture {results.get('img_path')} has {picture[1]}×{picture[0]} as "
                "viewers show it; label that, one number per pixel"
            )
        classes = results.get("num_classes", 255)
        beyond = labels[(labels >= classes) & (labels != 255)]
        if beyond.size:
            raise ValueError(
                f"{path}: class {beyond[0]} (counted from 0, after reduce_zero_label), but there are {classes} "
                "classes; correct the labels or name more classes"
            )


class OwnClasses(SeededItems):
    """Mixed into a data set of mmseg: it also takes ``metainfo.classes`` that are not among its own.

    A part of its own classes is mmseg's business (``label_map``: the others are ignored).
    """

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        known = cls.METAINFO.get("classes")
        if new_classes is not None and known is not None and not set(new_classes) <= set(known):
            return None  # labels are places in the new list
        return super().get_label_map(new_classes)

    def get_data_info(self, idx: int | tuple[int, ...]) -> dict[str, Any]:
        return {**super().get_data_info(idx), "num_classes": len(self.metainfo["classes"])}

    def _update_palette(self) -> list[list[int]]:
        if len(self._metainfo.get("palette", [])) != len(self._metainfo.get("classes", [])) and not self.label_map:
            self._metainfo["palette"] = []  # mmseg then draws one
        return super()._update_palette()


@DATASETS.register_module()
class SeededSegmentation(OwnClasses, BaseSegDataset):
    """Any folder of pictures and one of label files: mmseg's own base, with ``classes`` of the config."""


@DATASETS.register_module()
class SeededADE20K(OwnClasses, ADE20KDataset):
    """ADE20K (Zhou et al., CVPR 2017): 20,210 training and 2,000 validation images, 150 classes, label 0 ignored."""


@DATASETS.register_module()
class ComposedSegmentation(OwnClasses, BaseSegDataset):
    """What `synthetic.composed` wrote in ADE20K's layout: background and ten items, label 0 ignored.

    Args:
        **kwargs: of `mmseg.datasets.BaseSegDataset`.
    """

    METAINFO = {"classes": ADE_CLASSES, "palette": PALETTE}  # noqa: RUF012  (mmengine's name for it)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"reduce_zero_label": True, **kwargs})
