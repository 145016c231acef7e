"""Losses for depth, on sparse ground truth: only pixels of the mask count, and an empty mask gives 0.

All take ``prediction``, ``target`` and ``mask`` (bool), each (B, H, W), and give a scalar. None has a NaN in its
gradient where prediction and target are equal.
"""

from __future__ import annotations

import torch


def silog_loss(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, lam: float = 0.85, weight: float = 10.0
) -> torch.Tensor:
    """Scale-invariant logarithmic loss, ``weight · sqrt(mean g² - lam · mean(g)²)`` with ``g = ln p - ln t``.

    Eigen et al., arXiv 1406.2283, equation 4, under a root as since BTS (arXiv 1907.10326). The means go over all valid
    pixels of the batch. Published are ``lam=0.85, weight=10`` (BTS, AdaBins) and ``lam=0.5, weight=1`` (Eigen, Depth
    Anything V2).

    Args:
        prediction: metres; below 1e-3 it counts as 1e-3, and gets no gradient.
        target: metres, above 0 where the mask is set.
        mask: what counts.
        lam: 0: root mean square of the log ratio; 1: its standard deviation, which no scale changes.
        weight: of the whole.

    Raises:
        ValueError: ``lam`` outside [0, 1], or shapes that differ.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lam: expected a number from 0 to 1, got {lam}")
    _check(prediction, target, mask)
    if not mask.any():
        return _nothing(prediction)
    g = prediction[mask].clamp(min=1e-3).log() - target[mask].log()  # (M,)
    mean = g.mean()
    return weight * _root((g - mean).square().mean() + (1 - lam) * mean.square())


def scale_shift_invariant_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    trim: float = 0.2,
    gradient_weight: float = 0.5,
    scales: int = 4,
) -> torch.Tensor:
    """MiDaS' loss on inverse depth, arXiv 1907.01341, equations 4 to 11.

    Prediction and target of each image are brought to median 0 and mean absolute deviation 1 over its valid pixels,
    the residuals' largest share ``trim`` is left out, and the rest is averaged: ``1/(2M) Σ |r|``. Multi-scale gradient
    matching, ``1/M Σ |∂x r| + |∂y r|`` over pairs of valid neighbours at ``scales`` subsampled scales, is added. Mean
    over the images that have a valid pixel. Medians are of the valid pixels alone (the lower of two): on sparse ground
    truth medians of everything, as in the code that circulates, align to the fill value.

    Args:
        prediction: inverse depth, up to scale and shift.
        target: inverse depth, up to scale and shift.
        mask: what counts.
        trim: share of each image's pixels left out, 0 ≤ trim < 1.
        gradient_weight: α; 0 for sparse ground truth such as KITTI's.
        scales: K, each halving the sides.

    Raises:
        ValueError: ``trim`` outside [0, 1), or shapes that differ.
    """
    if not 0 <= trim < 1:
        raise ValueError(f"trim: expected a share from 0 to below 1, got {trim}")
    _check(prediction, target, mask)
    losses = []
    for p, t, valid in zip(prediction, target, mask, strict=True):
        if not valid.any():
            continue
        residual = torch.where(valid, _normalise(p, valid) - _normalise(t, valid), 0)  # (H, W)
        loss = _trimmed(residual[valid].abs(), trim)
        if gradient_weight:
            loss = loss + gradient_weight * gradient_matching(residual, valid, scales)
        losses.append(loss)
    return torch.stack(losses).mean() if losses else _nothing(prediction)


def least_squares_loss(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """MiDaS' other loss, ``1/(2M) Σ (s·p + t - target)²`` with the best s and t of each image (equations 1 and 2).

    An image whose prediction is constant is aligned by t alone. Mean over the images that have a valid pixel.
    """
    _check(prediction, target, mask)
    losses = []
    for p, t, valid in zip(prediction, target, mask, strict=True):
        if not valid.any():
            continue
        p, t = p[valid] - p[valid].mean(), t[valid] - t[valid].mean()
        spread = p.square().sum()
        scale = (p * t).sum() / torch.where(spread > 0, spread, 1)
        losses.append((scale * p - t).square().mean() / 2)
    return torch.stack(losses).mean() if losses else _nothing(prediction)


def berhu_loss(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Reverse Huber loss of Laina et al., arXiv 1606.00373, equation 2: mean of |r| up to c and ``(r² + c²)/2c`` above.

    ``c`` is a fifth of the batch's largest |r|; the gradient takes it for a constant, as theirs does.
    """
    _check(prediction, target, mask)
    if not mask.any():
        return _nothing(prediction)
    r = (prediction - target)[mask].abs()  # (M,)
    c = (r.detach().max() / 5).clamp(min=torch.finfo(r.dtype).tiny)
    return torch.where(r <= c, r, (r.square() + c.square()) / (2 * c)).mean()


def gradient_matching(residual: torch.Tensor, valid: torch.Tensor, scales: int) -> torch.Tensor:
    """``Σ_k 1/M_k Σ |∂x r| + |∂y r|`` of one residual (H, W), over pairs of valid neighbours (arXiv 1907.01341,
    equation 11); scale k takes every 2ᵏ-th pixel, and M_k of them are valid."""
    total = residual.new_zeros(())
    for k in range(scales):
        r, v = residual[:: 2**k, :: 2**k], valid[:: 2**k, :: 2**k]
        across = ((r[:, 1:] - r[:, :-1]).abs() * (v[:, 1:] & v[:, :-1])).sum()
        down = ((r[1:] - r[:-1]).abs() * (v[1:] & v[:-1])).sum()
        total = total + (across + down) / v.sum().clamp(min=1)
    return total


def _normalise(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """``(x - median) / mean|x - median|`` over the valid pixels, (H, W). A constant becomes 0."""
    centred = x - x[valid].median()
    spread = centred[valid].abs().mean()
    return centred / torch.where(spread > 0, spread, 1)


def _trimmed(errors: torch.Tensor, trim: float) -> torch.Tensor:
    """Half the sum of all but the largest ``trim`` of the errors (M,), over M; at least one is kept."""
    kept = max(1, int(len(errors) * (1 - trim)))
    return errors.sort().values[:kept].sum() / (2 * len(errors))


def _root(x: torch.Tensor) -> torch.Tensor:
    """Square root with gradient 0 at 0; NaN stays NaN."""
    nothing = x <= 0
    return torch.where(nothing, 0, torch.where(nothing, 1, x).sqrt())


def _nothing(prediction: torch.Tensor) -> torch.Tensor:
    """0, with a gradient of 0: every worker of a distributed run must have one."""
    return (prediction * 0).sum()


def _check(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> None:
    if not prediction.shape == target.shape == mask.shape or prediction.ndim != 3:
        shapes = ", ".join(str(tuple(x.shape)) for x in (prediction, target, mask))
        raise ValueError(f"expected prediction, target and mask of one shape (B, H, W), got {shapes}")
