"""Linear attention: attention without the softmax, whose sums over tokens do not depend on the query."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from . import chunked, reference

__all__ = ["linear_attention"]

BACKENDS = ("auto", "reference")


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    *,
    normalizer: tuple[torch.Tensor, torch.Tensor] | None = None,
    eps: float = 1e-6,
    chunk_size: int = 64,
    backend: str = "auto",
) -> torch.Tensor:
    """Linear attention of H heads, over all tokens or over those up to each::

        y_t = Σ_s (q_t·k_s) v_s / (Σ_s q'_t·k'_s + n·eps)

    The sums run over the n tokens that t sees: all L, or tokens 1…t. Without ``normalizer`` there is no division.
    Feature maps and rotations are the caller's: the numerator's queries and keys may be rotated and q', k' not.

    Plain matrix products in float32 (float64 if an argument is float64) whatever the dtype and autocast, since the sums
    grow with the tokens: L·N·P for the state Σ k⊗v and as many for reading it, linear in L. The causal form cuts the
    sequence into chunks: attention inside a chunk, a state for the chunks before. It is differentiable any number of
    times and deterministic.

    Args:
        q: (B, L, H, N) queries.
        k: (B, L, H, N) keys.
        v: (B, L, H, P) values.
        causal: token t sees tokens 1…t only.
        normalizer: q' and k', (B, L, H, M) each, of the denominator.
        eps: added to the mean that the denominator is.
        chunk_size: tokens per chunk of the causal form. It changes speed, not results.
        backend: "auto" (matrix products) or "reference" (the sums written out token by token).

    Returns:
        (B, L, H, P) in the dtype of ``v``.

    Raises:
        ValueError: a shape, ``chunk_size`` or ``backend`` does not fit; the message names it.

    Source: "Transformers are RNNs", arXiv 2006.16236, equations 4-11; the two pairs of the numerator and denominator as
    in RoFormer, arXiv 2104.09864, equation 19.
    """
    _check(q, k, v, normalizer, chunk_size, backend)
    float64 = torch.float64 in (q.dtype, k.dtype, v.dtype)
    dtype = torch.float64 if float64 else torch.float32
    with nullcontext() if q.is_meta else torch.autocast(q.device.type, enabled=False):  # meta has no autocast
        if backend == "reference":
            attend = reference.causal if causal else reference.full
        else:
            attend = chunked.causal if causal else chunked.full
        # (B, H, L, ·): a batched matrix product takes these strides as they are.
        y = attend(*(t.to(dtype).transpose(1, 2) for t in (q, k, v)), chunk_size)
        if normalizer is not None:
            y = y / _denominator(*(t.to(dtype).transpose(1, 2) for t in normalizer), causal, eps)
    return y.transpose(1, 2).to(v.dtype)


def _denominator(q: torch.Tensor, k: torch.Tensor, causal: bool, eps: float) -> torch.Tensor:
    """(B, H, L, 1): Σ_s q_t·k_s + n·eps."""
    length = k.shape[2]
    if causal:
        seen = torch.arange(1, length + 1, dtype=k.dtype, device=k.device)
        return ((q * k.cumsum(2)).sum(-1) + eps * seen).unsqueeze(-1)
    return q @ k.sum(2).unsqueeze(-1) + eps * length


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    normalizer: tuple[torch.Tensor, torch.Tensor] | None,
    chunk_size: int,
    backend: str,
) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"linear_attention: backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if chunk_size < 1:
        raise ValueError(f"linear_attention: chunk_size must be at least 1, got {chunk_size}")
    if q.ndim != 4 or k.shape != q.shape:
        raise ValueError(
            f"linear_attention: q and k must both be (B, L, H, N), got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"linear_attention: v must be (B, L, H, P) with q's {tuple(q.shape[:3])}, got {tuple(v.shape)}"
        )
    if normalizer is not None:
        shapes = [tuple(t.shape) for t in normalizer]
        if len(shapes) != 2 or shapes[0] != shapes[1] or shapes[0][:3] != tuple(q.shape[:3]):
            raise ValueError(
                f"linear_attention: normalizer must be two (B, L, H, M) with q's {tuple(q.shape[:3])}, got {shapes}"
            )
