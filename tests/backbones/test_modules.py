"""Networks as other people's tools take them: hooks, adapters, quantizers, dtypes, initialisation after the fact."""

from __future__ import annotations

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.backbones.layers import RMSNorm, reset_parameters
from mixerzoo.backbones.mixers import list_mixers
from torch import nn

DIMS = {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), "num_classes": 10}
TOKENS = {"img_size": 64, "embed_dim": 64, "depth": 2, "num_classes": 10}
TINY = {f"mambaout_femto_{mixer}": DIMS for mixer in list_mixers()} | {
    "vmamba_tiny_s1l8": DIMS,
    "vim_tiny_patch16_224": TOKENS,
    "vit_tiny_patch16_224_causal": {**TOKENS, "num_heads": 2},
}
every_network = pytest.mark.parametrize("name", TINY)
OURS = [name for name in TINY if not name.startswith("vit")]


def tiny(name: str, **kwargs) -> nn.Module:
    return timm.create_model(name, **{**TINY[name], **kwargs}).eval()


def matrices(net: nn.Module) -> dict[str, nn.Module]:
    return {key: module for key, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)}


@every_network
def test_a_forward_hook_on_every_matrix_fires(name):
    net, seen = tiny(name), []
    for key, module in matrices(net).items():
        module.register_forward_hook(lambda *_, key=key: seen.append(key))
    net(torch.randn(1, 3, 64, 64))
    assert sorted(seen) == sorted(matrices(net))


class Adapted(nn.Module):
    """A matrix with something learned added to its output, as LoRA does it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        return y + self.scale * y.tanh()


@every_network
def test_every_matrix_may_be_wrapped(name):
    """One at a time, the output changes; all at once, each adapter gets a gradient."""
    net, x = tiny(name), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for p in net.parameters():  # no branch may be so weak that a change of it is lost in rounding
            p.add_(0.1 * torch.randn_like(p))
        plain = net(x)
        for key, module in matrices(net).items():
            net.set_submodule(key, Adapted(module))
            assert not torch.equal(net(x), plain), key
            net.set_submodule(key, module)
    adapters = {}
    for key, module in matrices(net).items():
        adapters[key] = Adapted(module)
        net.set_submodule(key, adapters[key])
    net(x).square().sum().backward()
    assert [key for key, adapter in adapters.items() if not adapter.scale.grad] == []


@every_network
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_quantization(name):
    net, x = tiny(name), torch.randn(1, 3, 64, 64)
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in quantized.modules())
    with torch.no_grad():
        expected, actual = net(x), quantized(x)
    assert 0 < (actual - expected).norm() < 0.1 * expected.norm()


@every_network
def test_float64_throughout(name):
    net, dtypes = tiny(name).double(), {}
    for key, module in net.named_modules():
        module.register_forward_hook(lambda _, inputs, output, key=key: dtypes.update({key: output.dtype}))
    net(torch.randn(1, 3, 64, 64, dtype=torch.double))
    assert set(dtypes.values()) == {torch.double}


def test_norm_of_a_float64_residual():
    norm, x = RMSNorm(7, dtype=torch.double), torch.randn(3, 7, dtype=torch.double)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(), rtol=1e-14, atol=0)


SCANS = [name for name in OURS if name.endswith(("_s6", "_bis6", "_ss2d", "_ssd")) or name.startswith("v")]


@pytest.mark.parametrize("size", [(224, 224), pytest.param((800, 1280), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("name", SCANS)
def test_a_network_in_float16(name, size):
    net, x = tiny(name), torch.randn(1, 3, *size)
    with torch.no_grad():
        expected, actual = net(x), net.half()(x.half())
    assert actual.dtype == torch.float16
    assert (actual.float() - expected).norm() < 0.05 * expected.norm()


def test_the_sum_of_both_directions_is_halved_before_it_becomes_float16():
    mixer = tiny("vim_tiny_patch16_224").layers[0].mixer.half()
    inner = mixer.out_proj.in_features
    mixer.ssm.forward = lambda u, z: torch.full((1, 1, 3, inner), 1e5)  # a sum beyond 65504
    nn.init.constant_(mixer.out_proj.weight, 1 / inner)
    with torch.no_grad():
        assert mixer(torch.randn(1, 3, 64).half()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.double], ids=str)
@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "vmamba_tiny_s1l8"])
def test_feature_maps_have_the_dtype_of_the_network(name, dtype):
    x = torch.randn(1, 3, 64, 64, dtype=dtype)
    maps = tiny(name, features_only=True, out_indices=(0, 1)).to(dtype)(x)
    final, intermediates = tiny(name).to(dtype).forward_intermediates(x, indices=[0, 1])
    assert {y.dtype for y in (final, *maps, *intermediates)} == {dtype}


def test_stopped_early_no_norm_of_another_stage_is_applied():
    net, x = tiny("vmamba_tiny_s1l8"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        final, maps = net.forward_intermediates(x, indices=[0], stop_early=True, output_fmt="NHWC")
        assert torch.equal(final, maps[0])
        whole, maps = net.forward_intermediates(x, indices=[0, 3], stop_early=True, output_fmt="NHWC")
    assert torch.equal(whole, net.norm(maps[1]))


@pytest.mark.parametrize("name", OURS)
def test_init_weights_of_a_network_from_the_meta_device(name):
    with torch.device("meta"):
        net = tiny(name)
    net = net.to_empty(device="cpu")
    tensors = dict([*net.named_parameters(), *net.named_buffers()])
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(float("nan"))
    net.init_weights()
    assert [key for key, tensor in tensors.items() if not tensor.isfinite().all()] == []
    built = dict([*(other := tiny(name)).named_parameters(), *other.named_buffers()])
    for key, tensor in tensors.items():  # drawn from the same distributions
        if tensor.numel() > 100:
            torch.testing.assert_close(tensor.std(), built[key].std(), rtol=0.5, atol=0.02, msg=key)


def test_what_cannot_be_initialised_is_named():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    with pytest.raises(RuntimeError, match=r"1 \(Bare\) has parameters and no reset_parameters"):
        reset_parameters(nn.Sequential(nn.Linear(1, 1), Bare()))


@pytest.mark.parametrize("name", SCANS)
def test_per_sample_gradients(name):
    net = tiny(name)
    parameters, images = dict(net.named_parameters()), torch.randn(2, 3, 64, 64)

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, parameters, (image[None],)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        expected = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        for (key, grad), wanted in zip(grads.items(), expected, strict=True):
            torch.testing.assert_close(grad[i], wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item(), msg=key)


@pytest.mark.parametrize("name", SCANS)
def test_the_reference_backend_gives_forward_derivatives(name):
    """Every network with scans takes ``backend``, which the errors of the fast ones name as the cure."""
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(RuntimeError, match=r"create_model\(NAME, backend='reference'\)"):
        torch.func.jvp(tiny(name), (x,), (x,))
    net = tiny(name, backend="reference").double()
    x = x.double()
    _, tangent = torch.func.jvp(net, (x,), (x,))
    step = 1e-6
    torch.testing.assert_close(tangent, (net(x + step * x) - net(x - step * x)) / (2 * step), rtol=1e-4, atol=1e-7)
