"""Bad input to the scans: one ValueError that names the argument, what was expected and what came."""

from __future__ import annotations

import re

import pytest
import torch
from mixerzoo.backbones.ops.cross_scan import cross_merge, cross_scan
from mixerzoo.backbones.ops.selective_scan import selective_scan, selective_scan_2d

SEQUENCE = {
    "u": (2, 6, 9),
    "delta": (2, 6, 9),
    "A": (6, 4),
    "B": (2, 4, 9),
    "C": (2, 4, 9),
    "D": (6,),
    "z": (2, 6, 9),
    "delta_bias": (6,),
}
IMAGE = {
    "x": (2, 3, 5, 6),
    "delta": (2, 3, 5, 4, 6),
    "A": (4, 6, 2),
    "B": (2, 3, 5, 4, 2),
    "C": (2, 3, 5, 4, 2),
    "D": (4, 6),
    "z": (2, 3, 5, 6),
    "delta_bias": (4, 6),
}


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in shapes.items()}


WRONG_SEQUENCES = {
    "u (6, 9)": ("u", torch.randn(6, 9), "u must be (B, D, L), got (6, 9)"),
    "no steps": ("u", torch.randn(2, 6, 0), "u must not have an empty axis, got (2, 6, 0)"),
    "delta": ("delta", torch.randn(2, 9, 6), "delta must be (B, D, L) = (2, 6, 9), got (2, 9, 6)"),
    "A": ("A", torch.randn(5, 4), "A must be (D, N) = (6, 4), got (5, 4)"),
    "A (4,)": ("A", torch.randn(4), "A must be (D, N), got (4,)"),
    "B": ("B", torch.randn(2, 9, 4), "B must be (B, N, L) = (2, 4, 9), got (2, 9, 4)"),
    "B 5-D": ("B", torch.randn(2, 1, 1, 4, 9), "B must be (D, N) or (B, N, L) or (B, G, N, L), got (2, 1, 1, 4, 9)"),
    "C constant": ("C", torch.randn(4, 6), "C must be (D, N) = (6, 4), got (4, 6)"),
    "C grouped": ("C", torch.randn(2, 2, 5, 9), "C must be (B, G, N, L) = (2, 2, 4, 9), got (2, 2, 5, 9)"),
    "groups": ("B", torch.randn(2, 4, 4, 9), "B (2, 4, 4, 9) has 4 groups, which must divide the 6 channels"),
    "D": ("D", torch.randn(1, 6), "D must be (D) = (6), got (1, 6)"),
    "z": ("z", torch.randn(2, 6, 8), "z must be (B, D, L) = (2, 6, 9), got (2, 6, 8)"),
    "delta_bias": ("delta_bias", torch.randn(7), "delta_bias must be (D) = (6), got (7,)"),
    "integer": ("u", torch.ones(2, 6, 9, dtype=torch.long), "u (2, 6, 9) must be float16, bfloat16, float32 or"),
    "complex": (
        "A",
        torch.randn(6, 4, dtype=torch.complex64),
        "A (6, 4) must be float16, bfloat16, float32 or float64, got torch.complex",
    ),
    "list": ("D", [1.0] * 6, "D must be a tensor, got list"),
    "device": ("C", torch.randn(2, 4, 9, device="meta"), "C (2, 4, 9) is on meta, but u is on cpu; move all"),
    "backend": ("backend", "cuda", "backend must be one of 'auto', 'triton', 'cpu', 'torch', 'reference', 'mamba_ssm'"),
}


@pytest.mark.parametrize(("name", "value", "message"), WRONG_SEQUENCES.values(), ids=WRONG_SEQUENCES)
def test_sequence(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"selective_scan: {message}")):
        selective_scan(**{**tensors(SEQUENCE), name: value})


WRONG_IMAGES = {
    "x (2, 3, 5)": ("x", torch.randn(2, 3, 5), "x must be (B, H, W, E) or (B, H, W, K, E), got (2, 3, 5)"),
    "x per route": (
        "x",
        torch.randn(2, 3, 5, 2, 6),
        "x must be (B, H, W, K, E) = (2, 3, 5, 4, 6), got (2, 3, 5, 2, 6)",
    ),
    "delta": ("delta", torch.randn(2, 3, 5, 6), "delta must be (B, H, W, K, E) = (2, 3, 5, 4, 6), got (2, 3, 5, 6)"),
    "A": ("A", torch.randn(3, 6, 2), "A must be (K, E, N) = (4, 6, 2), got (3, 6, 2)"),
    "A (24, 2)": ("A", torch.randn(24, 2), "A must be (K, E, N), got (24, 2)"),
    "B": ("B", torch.randn(2, 3, 5, 4, 3), "B must be (B, H, W, K, N) = (2, 3, 5, 4, 2), got (2, 3, 5, 4, 3)"),
    "C": ("C", torch.randn(2, 3, 5, 2), "C must be (B, H, W, K, N) or (B, H, W, K, G, N), got (2, 3, 5, 2)"),
    "groups": ("C", torch.randn(2, 3, 5, 4, 4, 2), "C (2, 3, 5, 4, 4, 2) has 4 groups, which must divide the 6"),
    "D": ("D", torch.randn(24), "D must be (K, E) = (4, 6), got (24,)"),
    "z": ("z", torch.randn(2, 5, 3, 6), "z must be (B, H, W, E) = (2, 3, 5, 6), got (2, 5, 3, 6)"),
    "delta_bias": ("delta_bias", torch.randn(6), "delta_bias must be (K, E) = (4, 6), got (6,)"),
    "integer": ("delta", torch.ones(2, 3, 5, 4, 6, dtype=torch.int8), "delta (2, 3, 5, 4, 6) must be float16,"),
    "routes": ("routes", (0, 4), "routes must be one or more of [0, 1, 2, 3] (see Route), got [0, 4]"),
    "no routes": ("routes", (), "routes must be one or more of [0, 1, 2, 3] (see Route), got []"),
    "out_dtype": ("out_dtype", torch.int32, "out_dtype must be a real floating dtype or None, got torch.int32"),
    "backend": ("backend", "C", "backend must be one of"),
}


@pytest.mark.parametrize(("name", "value", "message"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_image(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"selective_scan_2d: {message}")):
        selective_scan_2d(**{**tensors(IMAGE), name: value})


def test_groups_of_b_and_c_must_agree() -> None:
    inputs = tensors({**SEQUENCE, "B": (2, 2, 4, 9), "C": (2, 3, 4, 9)})
    with pytest.raises(ValueError, match=re.escape("C must be (B, G, N, L) = (2, 2, 4, 9), got (2, 3, 4, 9)")):
        selective_scan(**inputs)
    inputs = tensors({**IMAGE, "B": (2, 3, 5, 4, 2, 2), "C": (2, 3, 5, 4, 3, 2)})
    with pytest.raises(ValueError, match=re.escape("C must be (B, H, W, K, G, N) = (2, 3, 5, 4, 2, 2)")):
        selective_scan_2d(**inputs)


@pytest.mark.parametrize("function", [selective_scan, selective_scan_2d], ids=lambda f: f.__name__)
def test_absent_backend(function) -> None:
    """A backend that cannot run on CPU tensors says so, and names the argument and the way out."""
    inputs = tensors(SEQUENCE if function is selective_scan else IMAGE)
    with pytest.raises(ValueError, match=r"backend='mamba_ssm' needs CUDA tensors, got cpu; use backend='auto'"):
        function(**inputs, backend="mamba_ssm")


def test_cross_scan() -> None:
    with pytest.raises(ValueError, match=re.escape("x must be (B, H, W, E) or (B, H, W, 4, E), got (2, 3, 5)")):
        cross_scan(torch.randn(2, 3, 5))
    with pytest.raises(ValueError, match=re.escape("or (B, H, W, 2, E), got (2, 3, 5, 4, 6)")):
        cross_scan(torch.randn(2, 3, 5, 4, 6), routes=(0, 1))
    with pytest.raises(ValueError, match=re.escape("y must be (B, 15, 4, E) for a 3x5 grid, got (2, 14, 4, 6)")):
        cross_merge(torch.randn(2, 14, 4, 6), 3, 5)
