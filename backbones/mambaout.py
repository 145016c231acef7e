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
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.mambaout import MlpHead
from torch import nn

from .mixers import list_mixers, mixer_class

__all__ = ["MambaOut"]


class Stem(nn.Module):
    """Two 3×3 convolutions of stride 2, ``(B, C, H, W) -> (B, ceil(H/4), ceil(W/4), D)``."""

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd)
        self.norm1 = LayerNorm(dim // 2, **dd)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd)
        self.norm2 = LayerNorm(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The only change of memory format in the network, on its smallest tensor.
        x = self.conv1(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)  # (B, H/2, W/2, D/2)
        x = F.gelu(self.norm1(x))
        x = self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H/4, W/4, D)
        return self.norm2(x)


class Downsample(nn.Module):
    """3×3 convolution of stride 2, then LayerNorm, ``(B, H, W, D_in) -> (B, ceil(H/2), ceil(W/2), D_out)``."""

    def __init__(self, dim_in: int, dim_out: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1, **dd)
        self.norm = LayerNorm(dim_out, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class GatedBlock(nn.Module):
    """Residual gated block, ``(B, H, W, D) -> (B, H, W, D)`` (paper eq. 5-6; the two branches: see the module).

    Args:
        dim: channels D.
        mixer: name of a registered token mixer, applied to D of the ``int(8/3 · D)`` hidden channels.
        drop_path: probability of dropping the residual branch of a sample.
    """

    def __init__(self, dim: int, mixer: str, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        through = int(8 / 3 * dim) - dim  # hidden channels that no mixer touches
        self.norm = LayerNorm(dim, **dd)
        self.through_gate = nn.Linear(dim, through, **dd)
        self.through_value = nn.Linear(dim, through, **dd)
        self.through_out = nn.Linear(through, dim, bias=False, **dd)
        self.mixed_gate = nn.Linear(dim, dim, **dd)
        self.mixed_value = nn.Linear(dim, dim, **dd)
        self.mixer = mixer_class(mixer)(dim, **dd)
        self.mixed_out = nn.Linear(dim, dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm(x)
        y = self.mixed_out(F.gelu(self.mixed_gate(n)) * self.mixer(self.mixed_value(n)))
        y = y + self.through_out(F.gelu(self.through_gate(n)) * self.through_value(n))
        return x + self.drop_path(y)


class Stage(nn.Module):
    """Optional down-sampling, then blocks of one width."""

    def __init__(
        self, dim_in: int, dim: int, mixer: str, drop_path: Sequence[float], downsample: bool, **dd: Any
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = Downsample(dim_in, dim, **dd) if downsample else nn.Identity()
        self.blocks = nn.Sequential(*[GatedBlock(dim, mixer, rate, **dd) for rate in drop_path])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class MambaOut(nn.Module):
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        mixers = (mixer,) * len(depths) if isinstance(mixer, str) else tuple(mixer)
        if not len(depths) == len(dims) == len(mixers):
            raise ValueError(f"depths, dims and mixers must be equally many, got {depths}, {dims} and {mixers}")
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NHWC"
        self.stem = Stem(in_chans, dims[0], **dd)
        drop_path = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential(
            *[
                Stage(dims[max(i - 1, 0)], dim, mixers[i], drop_path[i], downsample=i > 0, **dd)
                for i, dim in enumerate(dims)
            ]
        )
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]
        self.num_features = dims[-1]
        self.head = MlpHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: stem, then each stage (coarse) or block."""
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        return {
            "stem": r"^stem",
            "blocks": [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)],
        }

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names or patterns of parameters exempt from weight decay: what each mixer asks for (biases and norms are
        one-dimensional, which timm exempts by itself)."""
        patterns: set[str] = set()
        for module in self.modules():
            if isinstance(module, GatedBlock):
                patterns |= {f"*.mixer.{name}" for name in getattr(module.mixer, "no_weight_decay", ())}
        return patterns

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The final linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the network and collects the outputs of stages.

        Args:
            x: images (B, C, H, W).
            indices: the last n stages if an integer, all if ``None``, else those listed.
            norm: accepted for timm's contract; the stages have no norm of their own to apply.
            stop_early: stop after the last stage asked for.
            output_fmt: layout of the intermediates, ``NCHW`` (channels_last in memory) or ``NHWC``.
            intermediates_only: leave out the final features.

        Returns:
            ``(features, intermediates)``, features (B, H/32, W/32, D) as `forward_features` gives them.

        Raises:
            ValueError: unknown ``output_fmt``.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                intermediates.append(x.permute(0, 3, 1, 2) if output_fmt == "NCHW" else x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages behind the last one asked for, and the head; returns the indices kept."""
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_head or shortened:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.num_classes = 0
            self.head.reset(0, "", reset_other=True, in_features=self.num_features)
        return take

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, H/32, W/32, D)``, each side rounded up at every halving."""
        return self.stages(self.stem(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, H, W, D) -> (B, num_classes)``: pool, then norm (in this order), MLP, classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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
        state_dict: the file's content; ``model``, ``state_dict`` and ``model_ema`` wrappers are opened.
        model: the network to load into (unused; timm's signature).

    Raises:
        ValueError: the keys are of no MambaOut layout.
    """
    for wrapper in ("model_ema", "state_dict_ema", "model", "state_dict"):
        if isinstance(state_dict.get(wrapper), dict):
            state_dict = state_dict[wrapper]
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
            **{"mixer": mixer, **SIZES[size], **kwargs},
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = (
        f"MambaOut-{size.capitalize()} with the token mixer ``{mixer}`` (`mixers.{mixer_class(mixer).__name__}`)."
    )
    return create


for _size in SIZES:
    for _mixer in list_mixers():
        globals()[f"mambaout_{_size}_{_mixer}"] = register_model(_entrypoint(_size, _mixer))
