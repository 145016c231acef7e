"""Convolutions that make maps smaller."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mixerzoo.backbones.layers import StridedConv


@pytest.mark.parametrize(
    ("height", "width", "small"), [(1, 1, True), (3, 5, True), (6, 2, True), (4, 4, True), (9, 7, False)]
)
def test_strided_convolution_is_the_plain_one_at_any_size(height, width, small):
    conv = StridedConv(5, 37, 3, stride=2, padding=1, dtype=torch.double)
    x = torch.randn(2, 5, height, width, dtype=torch.double, requires_grad=True)
    assert conv._is_small(x) == small
    leaves = (x, conv.weight, conv.bias)
    y, expected = conv(x), F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(expected)
    grads, expected_grads = (torch.autograd.grad((out * weight).sum(), leaves) for out in (y, expected))
    torch.testing.assert_close(grads, expected_grads)
