"""Reference outputs of the official implementations (tests/data/goldens) and the weights they were computed with.

No weights are stored. Every tensor is a function of its official key and shape, drawn from a generator seeded with the
key's CRC-32, so that the same rule, applied to the official class, made the outputs and, applied here, makes the input
of `checkpoint_filter_fn`.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

FOLDER = Path(__file__).parent / "data" / "goldens"


def weights(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One entry of an official state dict, float32 (int64 for counters)."""
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    noise = np.asarray(rng.standard_normal(shape), np.float32)
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf.startswith("A") and leaf.endswith(("_log", "_logs")):  # the state matrix: log(1…N) along the states
        states = np.arange(1, shape[-1] + 1, dtype=np.float32)
        return (np.log(states) + 0.1 * noise).astype(np.float32)
    if leaf in ("D", "Ds") or leaf.startswith("D_"):
        return 1 + 0.1 * noise
    if leaf.startswith("dt_projs_bias") or ("dt_proj" in key and leaf == "bias"):  # softplus⁻¹ of a step in [1e-3, 0.1]
        step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), shape)).astype(np.float32)
        return (step + np.log(-np.expm1(-step))).astype(np.float32)
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(noise)
    if len(shape) <= 1:
        return (leaf == "weight") + 0.1 * noise
    if leaf in ("pos_embed", "cls_token", "position_embeddings", "absolute_pos_embed"):
        return 0.2 * noise
    return (noise / np.sqrt(math.prod(shape[1:]))).astype(np.float32)


@dataclass
class Golden:
    """One stored run of an official model."""

    state_dict: dict[str, torch.Tensor]
    """Official keys and shapes, filled by `weights`."""
    image: torch.Tensor
    """Normalised input (B, 3, H, W)."""
    outputs: dict[str, torch.Tensor]
    gain: dict[str, float] = field(default_factory=dict)
    """Factors by key suffix, with which the ``gain_*`` outputs were computed."""
    buffers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Computed buffers of official files, by key, which the loader must accept."""

    def gained(self) -> dict[str, torch.Tensor]:
        """The state dict with every factor of `gain` applied."""
        return {
            key: value * math.prod(factor for suffix, factor in self.gain.items() if key.endswith(suffix))
            for key, value in self.state_dict.items()
        }


def load(name: str) -> Golden:
    """Reads ``tests/data/goldens/{name}.json`` and ``.npz``."""
    spec = json.loads((FOLDER / f"{name}.json").read_text())
    parts = [spec] if "state_dict" in spec else spec["mixers"].values()
    shapes = {key: tuple(shape) for part in parts for key, shape in part["state_dict"].items()}
    state = {key: torch.from_numpy(weights(key, shape)) for key, shape in shapes.items()}
    image = np.random.RandomState(spec["input"]["seed"]).standard_normal(spec["input"]["shape"]).astype(np.float32)
    with np.load(FOLDER / f"{name}.npz") as arrays:
        outputs = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    buffers = spec.get("computed_buffers_not_in_state_dict", {})
    return Golden(state, torch.from_numpy(image), outputs, spec.get("gain", {}), buffers)


def create(name: str, state_dict: dict[str, torch.Tensor], path: Path, **kwargs) -> nn.Module:
    """The model ``name`` in eval mode with official weights, written to ``path`` as a training checkpoint."""
    torch.save({"model": state_dict}, path)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


def assert_agrees(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, name: str) -> None:
    """Largest difference at most ``tolerance`` standard deviations of the expected output."""
    error = ((actual - expected).abs().max() / expected.std()).item()
    assert error <= tolerance, f"{name}: {error:.1e} of the standard deviation, at most {tolerance:.0e} expected"


@torch.no_grad()
def check_network(name: str, golden: Golden, path: Path, tolerance: float, maps: float, **kwargs) -> None:
    """Logits and stage outputs of ``name`` against the golden, with bare weights and, where it has any, gained ones.

    Args:
        name: of the model.
        golden: the official run.
        path: where the checkpoint may be written; the golden's computed buffers are in it.
        tolerance: of logits and of the stages' spatial means, in standard deviations.
        maps: of the stages' channel means at every position.
        kwargs: further arguments of the model.
    """
    buffers = {key: torch.zeros(shape) for key, shape in golden.buffers.items()}
    runs = {"": golden.state_dict, **({"gain_": golden.gained()} if golden.gain else {})}
    seen = set()
    for prefix, state in runs.items():
        net = create(name, {**state, **buffers}, path, **kwargs)
        outputs = {"logits": net(golden.image)} if net.num_classes else {}
        for i, stage in enumerate(net.forward_intermediates(golden.image, intermediates_only=True)):
            mean = stage.mean((2, 3))
            outputs |= {f"stage{i}": mean, f"stage{i}_mean": mean, f"stage{i}_map": stage.mean(1)}
        for key, value in outputs.items():
            if prefix + key in golden.outputs:
                seen.add(prefix + key)
                assert_agrees(value, golden.outputs[prefix + key], maps if "map" in key else tolerance, prefix + key)
    assert seen == set(golden.outputs)
