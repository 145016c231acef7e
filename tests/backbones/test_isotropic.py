"""Isotropic networks: equal parameters, equal initial tensors, no look into the future."""

from __future__ import annotations

import pytest
import timm
import torch
from mixerzoo.backbones.isotropic import Isotropic, init_by_name, matched_through
from mixerzoo.backbones.mixers import list_mixers, mixer_class

TINY = {"img_size": 6, "patch_size": 1, "in_chans": 3, "embed_dim": 32, "depth": 2, "num_classes": 4, "global_pool": ""}
MIXERS = list_mixers(controls=True)


def tiny(mixer: str, **kwargs) -> Isotropic:
    return timm.create_model(f"isotropic_{mixer}", **{**TINY, **kwargs})


def size(net) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("dim", [32, 64])
@pytest.mark.parametrize("mixer", [m for m in MIXERS if not getattr(mixer_class(m), "needs_grid", False)])
def test_parameters_are_matched_within_two_percent(mixer, dim):
    net, reference = (tiny(name, embed_dim=dim, device="meta") for name in (mixer, "gatedcnn"))
    assert abs(size(net) / size(reference) - 1) < 0.02


def test_a_mixer_too_large_to_match_is_refused():
    with pytest.raises(ValueError, match="mixer 'conv_ncssd' is too large to be matched in parameters at 16"):
        matched_through(16, "conv_ncssd")


def test_common_tensors_of_a_seed_are_equal_and_others_are_not():
    state = {}
    for mixer in ("gatedcnn", "s6", "placebo", "attn"):
        net = tiny(mixer)
        torch.manual_seed(len(state))  # of no influence
        init_by_name(net, 3)
        state[mixer] = net.state_dict()
    for mixer in ("s6", "placebo", "attn"):
        ours, theirs = state[mixer], state["gatedcnn"]
        common = [key for key in ours.keys() & theirs.keys() if ours[key].shape == theirs[key].shape]
        assert len(common) >= 20
        assert all(torch.equal(ours[key], theirs[key]) for key in common)
    assert torch.equal(state["s6"]["blocks.1.mixer.conv.weight"], state["placebo"]["blocks.1.mixer.conv.weight"])
    net = tiny("gatedcnn")
    init_by_name(net, 4)
    random = [key for key, value in state["gatedcnn"].items() if value.ndim > 1]
    assert not any(torch.equal(net.state_dict()[key], state["gatedcnn"][key]) for key in random)


def test_no_rule_for_a_parameter_is_an_error():
    net = tiny("identity")
    net.gain = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="no rule for the parameter gain"):
        init_by_name(net, 0)


@pytest.mark.parametrize("mixer", [m for m in MIXERS if mixer_class(m).causal or m == "identity"])
def test_a_causal_network_has_exactly_no_gradient_from_the_future(mixer):
    net = tiny(mixer).double()
    init_by_name(net, 0)
    x = torch.randn(2, 3, 6, 6, dtype=torch.double, requires_grad=True)
    for token in (0, 9, 22, 35):
        answer = net(x).flatten(1, 2)[:, token].square().sum()
        (grad,) = torch.autograd.grad(answer, x)
        grad = grad.flatten(2)
        assert torch.count_nonzero(grad[:, :, token + 1 :]) == 0
        assert grad[:, :, token].abs().sum() > 0
        if token and mixer != "identity":
            assert grad[:, :, token - 1].abs().sum() > 0


def test_answers_per_token_and_per_image():
    x = torch.randn(2, 3, 6, 6)
    assert tiny("gatedcnn")(x).shape == (2, 6, 6, 4)
    assert tiny("gatedcnn", global_pool="avg")(x).shape == (2, 4)
    assert tiny("gatedcnn")(torch.randn(1, 3, 9, 5)).shape == (1, 9, 5, 4)  # positions resampled
