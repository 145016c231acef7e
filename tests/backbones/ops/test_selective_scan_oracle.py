"""The selective scan against mamba-ssm's own reference function, where .ci/install-oracles has installed it."""

from __future__ import annotations

import pytest
import torch
from mixerzoo.backbones.ops.selective_scan import mamba_ssm, selective_scan, selective_scan_2d
from mixerzoo.benchmarks.scan import peers

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not peers.installed(), reason="needs mamba-ssm: run .ci/install-oracles"),
]
# name: (shape of B, shape of C, positions of arguments left out, delta_softplus)
CALLS = {
    "everything": ((2, 4, 45), (2, 4, 45), (), True),
    "groups": ((2, 3, 4, 45), (2, 3, 4, 45), (), True),
    "no gate": ((2, 4, 45), (2, 4, 45), (6,), True),
    "no skip, no bias": ((2, 4, 45), (2, 4, 45), (5, 7), True),
    "no softplus": ((2, 4, 45), (2, 4, 45), (7,), False),
    "constant B": ((6, 4), (2, 4, 45), (), True),
    "constant B and C": ((6, 4), (6, 4), (), True),
}


@pytest.mark.parametrize("backend", ["reference", "cpu", "torch"])
@pytest.mark.parametrize(("B", "C", "absent", "softplus"), CALLS.values(), ids=CALLS)
def test_mamba_ssm(backend: str, B: tuple, C: tuple, absent: tuple[int, ...], softplus: bool) -> None:
    """Outputs, last state, all gradients. mamba-ssm computes in float32; L is short, its backward quadratic in L."""
    selective_scan_ref = peers.load("selective_scan_ref")
    shapes = ((2, 6, 45), (2, 6, 45), (6, 4), B, C, (6,), (2, 6, 45), (6,))
    inputs = [torch.randn(shape) for shape in shapes]
    inputs[1], inputs[2] = inputs[1].abs() if not softplus else inputs[1] - 1, -inputs[2].exp()
    inputs = [None if i in absent else x.requires_grad_() for i, x in enumerate(inputs)]
    present = [x for x in inputs if x is not None]
    results = []
    for scan, options in ((selective_scan_ref, {}), (selective_scan, {"backend": backend})):
        out, state = scan(*inputs, delta_softplus=softplus, return_last_state=True, **options)
        results.append((out, state, *torch.autograd.grad((out.cos() * out).sum() + state.square().sum(), present)))
    for expected, actual in zip(*results, strict=True):
        scale = expected.detach().abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=3e-5 * scale)


@pytest.mark.parametrize("backend", ["reference", "cpu", "torch"])
def test_mamba_ssm_in_bfloat16(backend: str) -> None:
    selective_scan_ref = peers.load("selective_scan_ref")
    u, delta, z = (torch.randn(2, 6, 64).bfloat16() for _ in range(3))
    B, C = (torch.randn(2, 4, 64).bfloat16() for _ in range(2))
    arguments = (u, delta, -torch.rand(6, 4), B, C, torch.randn(6), z, torch.randn(6), True)
    expected, actual = selective_scan_ref(*arguments), selective_scan(*arguments, backend=backend)
    assert actual.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("gated", [True, False])
def test_how_the_mamba_ssm_backend_calls_its_kernel(
    monkeypatch: pytest.MonkeyPatch, groups: int | None, gated: bool
) -> None:
    """Its routes, groups and layouts, with mamba-ssm's reference function in the place of the CUDA kernel."""
    monkeypatch.setattr(mamba_ssm, "_kernel", lambda u: peers.load("selective_scan_ref"))
    K, pixels = 4, (2, 4, 7)
    shared = (K, 3) if groups is None else (K, groups, 3)
    x, z = torch.randn(2, *pixels, 6).unbind(0)
    B, C = torch.randn(2, *pixels, *shared).unbind(0)
    image = (x, torch.randn(*pixels, K, 6), -torch.rand(K, 6, 3), B, C, torch.randn(K, 6), z if gated else None)
    image = [value if value is None else value.requires_grad_() for value in (*image, torch.randn(K, 6))]
    leaves = [value for value in image if value is not None]
    results = []
    for backend in ("mamba_ssm", "reference"):
        out, state = selective_scan_2d(*image, True, True, backend)
        results.append((out, state, *torch.autograd.grad(out.square().sum(), leaves)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.detach().abs().max().item())
