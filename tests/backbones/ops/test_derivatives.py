"""Derivatives of the ops by every road: torch.func's transforms, forward mode, second order, meta tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mixerzoo.backbones.ops.selective_scan import selective_scan, selective_scan_2d
from mixerzoo.backbones.ops.ssd import ssd
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

SAMPLES = 3
Inputs = list[torch.Tensor]


def sequence(*tensors: torch.Tensor, backend: str = "auto") -> torch.Tensor:
    return selective_scan(*tensors, delta_softplus=True, backend=backend)


def image(*tensors: torch.Tensor, backend: str = "auto") -> torch.Tensor:
    return selective_scan_2d(*tensors, delta_softplus=True, backend=backend)


def heads(*tensors: torch.Tensor, backend: str = "auto") -> torch.Tensor:
    x, dt, A, B, C, D, z, bias = tensors
    return ssd(x, dt, A, B, C, D=D, z=z, dt_bias=bias, dt_softplus=True, chunk_size=4, backend=backend)


SHAPES = {  # of one batch, in the order u, delta, A, B, C, D, z, delta_bias
    sequence: ((2, 6, 9), (2, 6, 9), (6, 2), (2, 3, 2, 9), (2, 2, 9), (6,), (2, 6, 9), (6,)),
    image: (
        *((1, 2, 3, 4), (1, 2, 3, 4, 4), (4, 4, 2), (1, 2, 3, 4, 2), (1, 2, 3, 4, 2)),
        *((4, 4), (1, 2, 3, 4), (4, 4)),
    ),
    heads: ((2, 9, 4, 3), (2, 9, 4), (4,), (2, 9, 2, 2), (2, 9, 2, 2), (4, 3), (2, 9, 4, 3), (4,)),
}
PARAMETERS = (2, 5, 7)
every_op = pytest.mark.parametrize("op", SHAPES, ids=["selective_scan", "selective_scan_2d", "ssd"])


def draw(op: Callable, samples: int | None = None) -> Inputs:
    """Arguments in float64; with ``samples`` the activations of so many calls."""
    sizes = [shape if samples is None or i in PARAMETERS else (samples, *shape) for i, shape in enumerate(SHAPES[op])]
    tensors = [torch.randn(size, dtype=torch.double) for size in sizes]
    tensors[2] = -tensors[2].exp()
    return tensors


def loss(op: Callable, backend: str = "auto") -> Callable[..., torch.Tensor]:
    return lambda *tensors: op(*tensors, backend=backend).cos().sum()


EVERY = tuple(range(8))


@every_op
def test_grad_and_vjp(op: Callable) -> None:
    inputs = draw(op)
    expected = torch.autograd.grad(loss(op, "reference")(*(leaves := [x.requires_grad_() for x in inputs])), leaves)
    inputs = [x.detach() for x in inputs]
    torch.testing.assert_close(grad(loss(op), EVERY)(*inputs), expected)
    value, pull = vjp(loss(op), *inputs)
    torch.testing.assert_close(pull(torch.ones_like(value)), expected)


@every_op
@pytest.mark.parametrize("parameters", [False, True], ids=["activations", "all"])
def test_vmap(op: Callable, parameters: bool) -> None:
    """Over activations with shared parameters, and over ensembles with parameters of their own."""
    inputs, dims = draw(op, SAMPLES), [None if i in PARAMETERS else 0 for i in range(8)]
    if parameters:
        inputs, dims = [x if d == 0 else torch.stack([x, 2 * x, 3 * x]) for x, d in zip(inputs, dims, strict=True)], 0
    mapped = vmap(op, tuple(dims) if dims else 0)(*inputs)
    for i in range(SAMPLES):
        one = [x[i] if parameters or k not in PARAMETERS else x for k, x in enumerate(inputs)]
        torch.testing.assert_close(mapped[i], op(*one, backend="reference"))


@every_op
def test_per_sample_gradients(op: Callable) -> None:
    inputs, dims = draw(op, SAMPLES), tuple(None if i in PARAMETERS else 0 for i in range(8))
    mapped = vmap(grad(loss(op), EVERY), dims)(*inputs)
    for i in range(SAMPLES):
        one = [x if k in PARAMETERS else x[i] for k, x in enumerate(inputs)]
        expected = grad(loss(op, "reference"), EVERY)(*one)
        torch.testing.assert_close(tuple(g[i] for g in mapped), expected)


@every_op
def test_gradient_of_a_mapped_function(op: Callable) -> None:
    inputs, dims = draw(op, SAMPLES), tuple(None if i in PARAMETERS else 0 for i in range(8))

    def total(backend: str) -> Callable[..., torch.Tensor]:
        return lambda *tensors: vmap(loss(op, backend), dims)(*tensors).sum()

    torch.testing.assert_close(grad(total("auto"), EVERY)(*inputs), grad(total("reference"), EVERY)(*inputs))


@every_op
@pytest.mark.parametrize("argument", [0, 2], ids=["input", "A"])
def test_jacobian(op: Callable, argument: int) -> None:
    inputs = draw(op)
    expected = jacrev(lambda *x: op(*x, backend="reference"), argument)(*inputs)
    torch.testing.assert_close(jacrev(op, argument)(*inputs), expected)


def dual(op: Callable, backend: str, inputs: Inputs, argument: int, tangent: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        tensors = list(inputs)
        tensors[argument] = forward_ad.make_dual(inputs[argument], tangent)
        return forward_ad.unpack_dual(op(*tensors, backend=backend)).tangent


@every_op
@pytest.mark.parametrize("argument", [0, 1, 2, 4], ids=["input", "delta", "A", "C"])
def test_forward_mode_is_right_or_says_what_is(op: Callable, argument: int) -> None:
    """With no argument requiring grad, where the tangents used to vanish."""
    inputs = draw(op)
    tangent = torch.randn_like(inputs[argument])

    def of(backend: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: op(*inputs[:argument], x, *inputs[argument + 1 :], backend=backend)

    expected = torch.tensordot(jacrev(of("reference"))(inputs[argument]), tangent, tangent.ndim)
    torch.testing.assert_close(jvp(of("reference"), (inputs[argument],), (tangent,))[1], expected)
    torch.testing.assert_close(dual(op, "reference", inputs, argument, tangent), expected)
    roads = (
        lambda: jvp(of("auto"), (inputs[argument],), (tangent,)),
        lambda: jacfwd(of("auto"))(inputs[argument]),
        lambda: dual(op, "auto", inputs, argument, tangent),
        lambda: dual(op, "auto", [x.clone().requires_grad_() for x in inputs], argument, tangent),
    )
    for road in roads:
        with pytest.raises(RuntimeError, match=r"has no forward-mode derivative; use backend='reference'"):
            road()
    with torch.no_grad(), pytest.raises(RuntimeError, match="use backend='reference'"):
        dual(op, "auto", inputs, argument, tangent)


@every_op
def test_forward_mode_of_what_surrounds_a_scan(op: Callable) -> None:
    """A scan that no tangent reaches is no obstacle."""
    inputs, one = draw(op), torch.ones((), dtype=torch.double)
    _, tangent = jvp(lambda scale: scale * op(*inputs), (one,), (one,))
    torch.testing.assert_close(tangent, op(*inputs))


@every_op
def test_second_derivatives_are_right_or_say_what_is(op: Callable) -> None:
    inputs = draw(op)
    parameter = inputs[5]

    def of(backend: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda D: op(*inputs[:5], D, *inputs[6:], backend=backend).square().sum()

    assert hessian(of("reference"))(parameter).abs().sum() > 0
    cure = r"use backend='reference'.*timm\.create_model\(NAME, backend='reference'\)"
    with pytest.raises(RuntimeError, match=cure):
        hessian(of("auto"))(parameter)
    with pytest.raises(RuntimeError, match=cure):
        grad(lambda D: grad(of("auto"))(D).sum())(parameter)
    leaf = parameter.clone().requires_grad_()
    (first,) = torch.autograd.grad(of("auto")(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=cure):
        torch.autograd.grad(first.sum(), leaf)


@every_op
def test_meta_tensors_that_require_grad(op: Callable) -> None:
    inputs = [x.to("meta").requires_grad_() for x in draw(op)]
    grads = torch.autograd.grad(loss(op)(*inputs), inputs)
    assert [g.shape for g in grads] == [x.shape for x in inputs]
