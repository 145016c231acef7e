"""How good is a depth map: the metrics and protocols that published tables stand on.

The same prediction scores differently under another crop, cap or alignment, so a number comes with the protocol it was
measured under: `Protocol` holds everything that changes a figure, and its text belongs beside the figure.

Metric depth: Eigen et al., arXiv 1406.2283, as evaluated by the BTS line of work (arXiv 1907.10326). Relative depth:
MiDaS, arXiv 1907.01341, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from .transforms import KBCrop

METRICS = (
    "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3", "irmse", "bad_pixels",
)  # fmt: skip
CROPS = ("none", "nyu_eigen", "kitti_garg", "kitti_eigen")
ALIGNMENTS = ("none", "inverse")

# Fractions of height and width: (top, bottom, left, right).
_FRACTIONS = {
    "kitti_garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "kitti_eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}


@dataclass(frozen=True)
class Protocol:
    """Everything that changes a depth figure besides the prediction.

    Attributes:
        name: of the protocol.
        min_depth, max_depth: metres; ground truth counts strictly between them, predictions are clamped to them.
        crop: the part of the picture that counts: ``none``, ``nyu_eigen`` (rows 45:471, columns 41:601 of 480×640),
            ``kitti_garg`` or ``kitti_eigen`` (fractions of the picture).
        kb_crop: how KITTI's predictions, made on the 352×1216 KB crop, meet the ground truth: ``none``: they are of the
            whole picture; ``paste``: they are pasted into a whole picture of zeros, of which ``crop`` takes fractions
            (BTS, DPT); ``cut``: the ground truth is cut likewise, and ``crop`` takes fractions of 352×1216 (AdaBins,
            ZoeDepth).
        alignment: ``none``: predictions are metres; ``inverse``: they are inverse depth up to scale and shift, which
            are fitted to each image (see `align_inverse`).

    Raises:
        ValueError: unknown crop or alignment, or depths out of order.
    """

    name: str
    min_depth: float = 1e-3
    max_depth: float = 10.0
    crop: str = "none"
    kb_crop: str = "none"
    alignment: str = "none"

    def __post_init__(self) -> None:
        for field, allowed in (("crop", CROPS), ("kb_crop", ("none", "paste", "cut")), ("alignment", ALIGNMENTS)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}: expected one of {', '.join(allowed)}, got {getattr(self, field)!r}")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"expected 0 < min_depth < max_depth, got {self.min_depth} and {self.max_depth}")

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.min_depth:g} to {self.max_depth:g} m", f"crop {self.crop}"]
        parts += [f"KB crop by {self.kb_crop}"] if self.kb_crop != "none" else []
        parts += ["scale and shift fitted per image in inverse depth"] if self.alignment == "inverse" else []
        return ", ".join(parts)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("nyu", crop="nyu_eigen"),
        Protocol("kitti_bts", max_depth=80.0, crop="kitti_garg", kb_crop="paste"),
        Protocol("kitti_adabins", max_depth=80.0, crop="kitti_garg", kb_crop="cut"),
        Protocol("kitti_eigen", max_depth=80.0, crop="kitti_eigen"),
        Protocol("plain"),
        Protocol("zero_shot_nyu", alignment="inverse"),
        Protocol("zero_shot_kitti", max_depth=80.0, alignment="inverse"),
        Protocol("zero_shot_eth3d", max_depth=72.0, alignment="inverse"),
    )
}


def crop_mask(crop: str, height: int, width: int) -> torch.Tensor:
    """The part of a picture that counts, (H, W) bool.

    Raises:
        ValueError: unknown crop, or NYU's on another size than 480×640.
    """
    mask = torch.zeros(height, width, dtype=torch.bool)
    if crop == "none":
        return ~mask
    if crop == "nyu_eigen":
        if (height, width) != (480, 640):
            raise ValueError(f"crop nyu_eigen: defined on 480×640 pixels only, got {height}×{width}")
        mask[45:471, 41:601] = True
        return mask
    if crop not in _FRACTIONS:
        raise ValueError(f"crop: expected one of {', '.join(CROPS)}, got {crop!r}")
    top, bottom, left, right = _FRACTIONS[crop]
    mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return mask


def align_inverse(prediction: torch.Tensor, depth: torch.Tensor, valid: torch.Tensor, max_depth: float) -> torch.Tensor:
    """Relative inverse depth to metres by the scale s and shift t that fit an image best.

    ``min_{s,t} Σ (s·y + t - 1/g)²`` over the valid pixels; then the aligned inverse depth is kept at or above
    ``1 / max_depth``, and inverted. The fit runs in float64.

    Args:
        prediction: y (H, W).
        depth: g (H, W) in metres.
        valid: (H, W) bool.
        max_depth: metres.

    Returns:
        (H, W) in metres, float64. Where the prediction is constant, s = 0 and t is the mean of 1/g.
    """
    y = prediction.double()
    fitted, target = y[valid], 1 / depth.double()[valid]
    mean, target_mean = fitted.mean(), target.mean()
    spread = (fitted - mean).square().sum()
    scale = ((fitted - mean) * (target - target_mean)).sum() / spread if spread > 0 else torch.zeros_like(spread)
    aligned = scale * (y - mean) + target_mean
    return 1 / aligned.clamp(min=1 / max_depth)


def image_metrics(
    prediction: torch.Tensor, depth: torch.Tensor, protocol: Protocol, extra_mask: torch.Tensor | None = None
) -> dict[str, float] | None:
    """All metrics of one image.

    With g the ground truth, p the prediction (after alignment and clamp) and means over the valid pixels:
    ``abs_rel`` mean(|g-p|/g), ``sq_rel`` mean((g-p)²/g), ``rmse``, ``rmse_log`` (natural), ``log10`` mean|log₁₀g -
    log₁₀p|, ``silog`` 100·sqrt(mean e² - mean(e)²) with e = ln p - ln g, ``delta{k}`` share with max(g/p, p/g) < 1.25ᵏ,
    ``irmse`` 1000·sqrt(mean (1/g - 1/p)²) in 1/km, ``bad_pixels`` 100·(1 - delta1); ``sq_rel`` and ``rmse`` in metres.

    Args:
        prediction: (h, w), metres or relative inverse depth as the protocol says. With a KB crop, 352×1216.
        depth: (H, W) in metres; 0 and not finite: none.
        protocol: what counts and how.
        extra_mask: (H, W) bool, what else has to be true of a pixel to count.

    Returns:
        Name → value; ``None`` if no pixel is valid.

    Raises:
        ValueError: the two do not fit each other.
    """
    valid = (depth > protocol.min_depth) & (depth < protocol.max_depth)
    if extra_mask is not None:
        valid &= extra_mask
    prediction, depth, valid = _kb_crop(prediction, depth, valid, protocol)
    if prediction.shape != depth.shape:
        raise ValueError(f"prediction and ground truth differ in size: {tuple(prediction.shape)}, {tuple(depth.shape)}")
    valid = valid & crop_mask(protocol.crop, *depth.shape).to(depth.device)
    if not valid.any():
        return None
    prediction = prediction.double()
    if protocol.alignment == "inverse":
        if not prediction[valid].isfinite().all():
            raise ValueError("alignment: the prediction holds NaN or infinity")
        prediction = align_inverse(prediction, depth, valid, protocol.max_depth)
    low, high = protocol.min_depth, protocol.max_depth
    p = prediction.nan_to_num(nan=low, posinf=high, neginf=low).clamp(low, high)[valid]
    g = depth.double()[valid]
    return _errors(p, g)


def _errors(p: torch.Tensor, g: torch.Tensor) -> dict[str, float]:
    """The metrics of valid pixels, (M,) each, in float64."""
    difference, log_ratio = g - p, p.log() - g.log()
    ratio = torch.maximum(g / p, p / g)
    values = {
        "abs_rel": (difference.abs() / g).mean(),
        "sq_rel": (difference.square() / g).mean(),
        "rmse": difference.square().mean().sqrt(),
        "rmse_log": log_ratio.square().mean().sqrt(),
        "log10": (p.log10() - g.log10()).abs().mean(),
        "silog": 100 * log_ratio.var(correction=0).sqrt(),  # mean e² - mean(e)², without its cancellation
        **{f"delta{k}": (ratio < 1.25**k).double().mean() for k in (1, 2, 3)},
        "irmse": 1000 * (1 / g - 1 / p).square().mean().sqrt(),
        "bad_pixels": 100 * (ratio >= 1.25).double().mean(),
    }
    return {name: float(value) for name, value in values.items()}


def _kb_crop(
    prediction: torch.Tensor, depth: torch.Tensor, valid: torch.Tensor, protocol: Protocol
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if protocol.kb_crop == "none":
        return prediction, depth, valid
    if tuple(prediction.shape) != (KBCrop.height, KBCrop.width):
        raise ValueError(f"protocol {protocol.name}: expected a prediction of 352×1216, got {tuple(prediction.shape)}")
    top, left = KBCrop.corner(*depth.shape)
    window = (slice(top, top + KBCrop.height), slice(left, left + KBCrop.width))
    if protocol.kb_crop == "cut":
        return prediction, depth[window], valid[window]
    whole = torch.zeros(depth.shape, dtype=prediction.dtype, device=prediction.device)
    whole[window] = prediction
    return whole, depth, valid


def as_protocol(protocol: str | Protocol) -> Protocol:
    """A protocol by a name of `PROTOCOLS`, or one as it is.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    return PROTOCOLS[protocol]


def mean_metrics(images: Sequence[Mapping[str, float] | None], protocol: Protocol) -> dict[str, float]:
    """Mean over images of what `image_metrics` gave for each; images without a valid pixel are left out, and counted.

    Returns:
        Means, with ``images`` (how many count) and ``empty`` (how many had no valid pixel).

    Raises:
        ValueError: no image counts.
    """
    valid = [values for values in images if values is not None]
    if not valid:
        raise ValueError(f"{protocol}: none of {len(images)} images has a valid pixel")
    means = {name: sum(values[name] for values in valid) / len(valid) for name in METRICS}
    return {**means, "images": len(valid), "empty": len(images) - len(valid)}


def flip_average(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Mean of the prediction and the mirrored prediction of the mirrored images, (B, H, W).

    The BTS line reports with it, DPT without; a table has to say so.
    """
    return (model(images) + model(images.flip(-1)).flip(-1)) / 2


def with_cap(protocol: Protocol, max_depth: float) -> Protocol:
    """The same protocol with another cap in metres (KITTI's tables exist at 50 m too)."""
    return replace(protocol, name=f"{protocol.name}_{max_depth:g}m", max_depth=max_depth)
