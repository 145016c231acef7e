"""MambaOut and its controlled variants: one macro-architecture, the token mixer swapped.

Paper: "MambaOut: Do We Really Need Mamba for Vision?", arXiv 2405.07992. Official code: yuweihao/MambaOut (Apache-2.0).

``mambaout_{femto,kobe,tiny,small,base}_gatedcnn`` are the published models; ``mambaout_{size}_{mixer}`` exists for
every mixer registered in ``mixers/`` and differs from them in the mixer alone.

How the block is written here. The published block computes ``fc2(GELU(g) * concat(i, conv(c)))`` with
``g, i, c = split(fc1(x))``. Only the last D channels are mixed, so the sum inside ``fc2`` falls into two independent
branches: a gated MLP of the channels that pass through, and a gated mixer of the D channels that are mixed. Written
as two branches of plain linear layers, the same function needs neither split nor concat, and the mixer reads a
contiguous tensor. `checkpoint_filter_fn` slices the official matrices accordingly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerNorm, calculate_drop_path_rates, get_device_dtype, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mambaout import MlpHead
from torch import nn

from .checkpoints import WeightFile, load_weights, through_our_reader, unwrap
from .layers import ConvDownsample, ConvStem, HierarchicalBackbone, Stage
from .mixers import list_mixers, mixer_class

__all__ = ["MambaOut"]

EPS = 1e-6  # of every norm


def through_channels(dim: int) -> int:
    """Hidden channels of a published block of D channels that no mixer touches."""
    return int(8 / 3 * dim) - dim


def build_mixer(name: str, dim: int, backend: str, **dd: Any) -> nn.Module:
    """The mixer of that name; scans alone take a backend."""
    kind = mixer_class(name)
    options = {"backend": backend} if kind.kind == "scan" else {}
    return kind(dim, **options, **dd)


class GatedBlock(nn.Module):
    """Residual gated block, ``(B, H, W, D) -> (B, H, W, D)`` (paper eq. 5-6; the two branches: see the module).

    Args:
        dim: channels D.
        mixer: name of a registered token mixer, applied to D of the ``int(8/3 · D)`` hidden channels; or such a mixer.
        drop_path: probability of dropping the residual branch of a sample.
        backend: of a mixer given by name, if it is a scan.
        through: hidden channels that no mixer touches, if not the ``int(8/3 · D) - D`` of the published models.
    """

    def __init__(
        self,
        dim: int,
        mixer: str | nn.Module,
        drop_path: float = 0.0,
        backend: str = "auto",
        through: int | None = None,
        **dd: Any,
    ) -> None:
        super().__init__()
        through = through_channels(dim) if through is None else through
        self.norm = LayerNorm(dim, eps=EPS, **dd)
        self.through_gate = nn.Linear(dim, through, **dd)
        self.through_value = nn.Linear(dim, through, **dd)
        self.through_out = nn.Linear(through, dim, bias=False, **dd)
        self.mixed_gate = nn.Linear(dim, dim, **dd)
        self.mixed_value = nn.Linear(dim, dim, **dd)
        self.mixer = mixer if isinstance(mixer, nn.Module) else build_mixer(mixer, dim, backend, **dd)
        self.mixed_out = nn.Linear(dim, dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm(x)
        y = self.mixed_out(F.gelu(self.mixed_gate(n)) * self.mixer(self.mixed_value(n)))
        y = y + self.through_out(F.gelu(self.through_gate(n)) * self.through_value(n))
        return x + self.drop_path(y)


class MambaOut(HierarchicalBackbone):
    """Four stages of gated blocks on NHWC maps at strides 4, 8, 16 and 32.

    Args:
        mixer: name of the token mixer (`mixers.list_mixers()`), or one name per stage.
        depths: blocks per stage.
        dims: channels per stage.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg``, or ``''`` for no pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, growing linearly from 0 over all blocks.
        backend: of the mixers that are scans (`ops.selective_scan.selective_scan`, `ops.ssd.ssd`).

    Raises:
        ValueError: unknown mixer, or depths, dims and mixers of different lengths.
    """

    def __init__(
        self,
        mixer: str | Sequence[str] = "gatedcnn",
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 576),
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        mixers = (mixer,) * len(depths) if isinstance(mixer, str) else tuple(mixer)
        if not len(depths) == len(dims) == len(mixers):
            raise ValueError(f"depths, dims and mixers must be equally many, got {depths}, {dims} and {mixers}")
        dd = {"device": device, "dtype": dtype}
        self.set_dims(dims, in_chans, num_classes)
        self.stem = ConvStem(in_chans, dims[0], EPS, **dd)
        drop_path = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential(
            *[
                Stage(
                    ConvDownsample(dims[i - 1], dim, EPS, **dd) if i else None,
                    [GatedBlock(dim, mixers[i], rate, backend, **dd) for rate in drop_path[i]],
                )
                for i, dim in enumerate(dims)
            ]
        )
        self.head = MlpHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(self.init_module)

    @staticmethod
    @torch.jit.ignore
    def init_module(module: nn.Module) -> None:
        """The official initialisation of convolutions and linear layers; all others keep PyTorch's."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str | WeightFile) -> None:
        """Loads an official file or one of ours, executing nothing in it (`checkpoints.load_weights`)."""
        load_weights(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names or patterns of parameters exempt from weight decay: what each mixer asks for (biases and norms are
        one-dimensional, which timm exempts by itself)."""
        patterns: set[str] = set()
        for module in self.modules():
            if isinstance(module, GatedBlock):
                patterns |= {f"*.mixer.{name}" for name in getattr(module.mixer, "no_weight_decay", ())}
        return patterns

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))

    @torch.jit.ignore
    def pruned_head(self, num_features: int) -> dict[str, Any]:
        """The head's norm and hidden layer are made for the last stage: they go with it."""
        return {"reset_other": True, **super().pruned_head(num_features)}


# Official key prefix → ours, first match wins; the official head.norm is the hidden layer's, norm is the head's.
_OFFICIAL_NAMES = (
    ("downsample_layers.0.", "stem."),
    ("downsample_layers.", "stages.{}.downsample."),
    ("norm.", "head.norm."),
    ("head.fc1.", "head.pre_logits.fc."),
    ("head.norm.", "head.pre_logits.norm."),
    ("head.fc2.", "head.fc."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints' and timm's ``mambaout_*`` state dicts into ours; ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`checkpoints.unwrap`).
        model: the network to load into (unused; timm's signature).

    Raises:
        ValueError: the keys are of no MambaOut layout.
    """
    state_dict = unwrap(state_dict)
    if any(".mixed_value." in key for key in state_dict):
        return state_dict
    if "downsample_layers.0.conv1.weight" in state_dict:
        state_dict = {_official_to_timm(key): value for key, value in state_dict.items()}
    if "stem.conv1.weight" not in state_dict:
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            "not a MambaOut checkpoint: expected keys such as 'downsample_layers.0.conv1.weight' (official) or "
            f"'stem.conv1.weight' (timm), found {some}"
        )
    blocks = {key.removesuffix("fc1.weight") for key in state_dict if key.endswith(".fc1.weight")}
    out = {key: value for key, value in state_dict.items() if _block_of(key) not in blocks}
    for block in blocks:
        out.update(_two_branches(state_dict, block))
    return out


def _official_to_timm(key: str) -> str:
    if key.startswith("stages."):
        _, stage, block, rest = key.split(".", 3)
        return f"stages.{stage}.blocks.{block}.{rest}"
    for official, timm_name in _OFFICIAL_NAMES:
        if key.startswith(official):
            rest = key.removeprefix(official)
            if "{}" in timm_name:
                stage, rest = rest.split(".", 1)
                timm_name = timm_name.format(stage)
            return timm_name + rest
    return key


def _block_of(key: str) -> str:
    """``stages.0.blocks.1.fc1.weight -> stages.0.blocks.1.``, empty outside the blocks."""
    parts = key.split(".")
    return ".".join(parts[:4]) + "." if parts[2:3] == ["blocks"] else ""


def _two_branches(state_dict: dict[str, torch.Tensor], block: str) -> dict[str, torch.Tensor]:
    """Slices ``fc1`` and ``fc2`` of one published block into our branches; the mixed channels are the last D."""
    dim = state_dict[f"{block}fc1.weight"].shape[1]
    through = int(8 / 3 * dim) - dim
    rows = {  # slices of the output channels of fc1
        "through_gate": slice(0, through),
        "mixed_gate": slice(through, through + dim),
        "through_value": slice(through + dim, 2 * through + dim),
        "mixed_value": slice(2 * through + dim, None),
    }
    out: dict[str, torch.Tensor] = {}
    for key, value in state_dict.items():
        if not key.startswith(block):
            continue
        name = key.removeprefix(block)
        layer, _, leaf = name.rpartition(".")
        if layer == "fc1":
            out.update({f"{block}{branch}.{leaf}": value[part] for branch, part in rows.items()})
        elif name == "fc2.weight":
            out[f"{block}through_out.weight"], out[f"{block}mixed_out.weight"] = value[:, :through], value[:, through:]
        elif name == "fc2.bias":
            out[f"{block}mixed_out.bias"] = value
        elif layer == "conv":
            out[f"{block}mixer.{name}"] = value
        else:
            out[key] = value
    return out


SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "femto": {"depths": (3, 3, 9, 3), "dims": (48, 96, 192, 288)},
    "kobe": {"depths": (3, 3, 15, 3), "dims": (48, 96, 192, 288)},
    "tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 576)},
    "small": {"depths": (3, 4, 27, 3), "dims": (96, 192, 384, 576)},
    "base": {"depths": (3, 4, 27, 3), "dims": (128, 256, 512, 768)},
}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "test_input_size": (3, 288, 288),
        "pool_size": (7, 7),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2405.07992",
        "paper_name": "MambaOut: Do We Really Need Mamba for Vision?",
        "origin_url": "https://github.com/yuweihao/MambaOut",
        "license": "apache-2.0",
        **kwargs,
    }


def _published(size: str) -> dict[str, Any]:
    """The authors' ImageNet-1k weights: timm's copy on the hub, else the official release."""
    release = "https://github.com/yuweihao/MambaOut/releases/download/model"
    return _cfg(hf_hub_id=f"timm/mambaout_{size}.in1k", url=f"{release}/mambaout_{size}.pth")


default_cfgs = generate_default_cfgs(
    {
        **{f"mambaout_{size}_gatedcnn.in1k": _published(size) for size in SIZES},
        **{f"mambaout_{size}_{mixer}": _cfg() for size in SIZES for mixer in list_mixers() if mixer != "gatedcnn"},
    }
)


def _entrypoint(size: str, mixer: str) -> Callable[..., nn.Module]:
    name = f"mambaout_{size}_{mixer}"

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            MambaOut,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            **{"mixer": mixer, **SIZES[size], **through_our_reader(kwargs)},
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = (
        f"MambaOut-{size.capitalize()} with the token mixer ``{mixer}`` (`mixers.{mixer_class(mixer).__name__}`)."
    )
    return create


for _size in SIZES:
    for _mixer in list_mixers():
        globals()[f"mambaout_{_size}_{_mixer}"] = register_model(_entrypoint(_size, _mixer))
