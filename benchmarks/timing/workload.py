"""The program that is timed: one model, one input, one step of inference or training, and its reference."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator

import timm.optim
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from ..counting.counter import image_channels
from ..sources import build_model
from .case import Case

# Relative L2 error against float32 that rounding may cause: about twice what twenty families showed at most.
# Gradients through batch norm over a few images amplify rounding: 0.26 was seen in bfloat16.
OUTPUT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.08, "float16": 0.02}
GRADIENT_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.25}
REFERENCE_BATCH = 8  # images an inference's reference sees at a time: whether the batch fits is the case's question


class Stopwatch:
    """Times the stretches between marks: by the clock on a CPU, by events on a GPU, where a mark does not wait."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list = []

    def mark(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def read_ms(self) -> list[float]:
        """Waits for the last mark; milliseconds between successive marks, which are then forgotten."""
        marks, self._marks = self._marks, []
        if self._cuda:
            marks[-1].synchronize()
            return [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
        return [(b - a) * 1e3 for a, b in itertools.pairwise(marks)]


@torch.no_grad()
def wake_constant_parameters(model: nn.Module, seed: int) -> None:
    """Randomises, in place, parameters that are constant and near zero as constructed.

    Layer scales of 1e-6, zero biases, zero-initialised residual branches and heads hide what lies behind them: the
    output would be right whatever the blocks computed. Speed does not depend on the values.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        low, high = parameter.aminmax()
        if low == high and high.abs() < 1e-2:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """‖got - expected‖₂ / ‖expected‖₂ in float64; infinite where got is not finite."""
    got, expected = got.detach().double(), expected.detach().double()
    error = (got - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return error.item() if torch.isfinite(error) else float("inf")


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """All values, one after the other."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def tf32_enabled() -> bool:
    """Whether float32 convolutions or matrix products may run in TF32 on a GPU."""
    return torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest"


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Runs float32 operators without TF32, whatever the settings under test are."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


class Workload:
    """A case made ready to run: weights, input, loss and optimizer in its dtype, memory format and compilation.

    Args:
        case: what to run; ``image_size`` must be set.
        seed: of weights, and of the input unless that is photographs.

    Raises:
        ValueError: unknown model; not a classifier, whose training needs a loss; unreadable photographs.
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case = case
        self.seed = seed
        self.device = torch.device(case.device)
        self.training = case.mode == "train"
        torch.manual_seed(seed)
        self.model = build_model(case.model, case.image_size, device=self.device).train(self.training)
        wake_constant_parameters(self.model, seed)
        self.x = self._images().to(self.device)  # (B, C, H, W)
        classes = getattr(self.model, "num_classes", 0)
        if self.training and classes < 2:
            raise ValueError(f"{case.model}: training is timed on classifiers, and this model has {classes} classes")
        self.target = torch.arange(case.batch, device=self.device) % max(classes, 1)  # (B,)
        self._autocast = False
        self._scaler = torch.amp.GradScaler(self.device.type, init_scale=1024, enabled=False)

    def _images(self) -> torch.Tensor:
        if self.case.photos:
            from .photos import load_photos, photo_batch  # Pillow and scikit-image: only where there are photographs

            return photo_batch(self.case.model, load_photos(self.case.photos), self.case.image_size, self.case.batch)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.case.batch, image_channels(self.model), *self.case.image_size, generator=generator)

    def reference(self) -> torch.Tensor:
        """Output (training: all gradients, as one vector) of the float32, eager, contiguous network.

        To be called before :meth:`configure`.
        """
        if self.training:
            with full_float32():
                return self._gradients()
        with full_float32(), torch.inference_mode():
            outputs = [tree_leaves(self.model(x)) for x in self.x.split(REFERENCE_BATCH)]
            return flat(torch.cat([part.float().cpu() for part in parts]) for parts in zip(*outputs, strict=True))

    def configure(self) -> None:
        """Turns the reference into the case: memory format, dtype, compilation, optimizer."""
        case = self.case
        dtype = getattr(torch, case.dtype)
        if case.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        if self.training:
            self._autocast = dtype != torch.float32
            self._scaler = torch.amp.GradScaler(self.device.type, init_scale=1024, enabled=dtype == torch.float16)
            self._optimizer = timm.optim.create_optimizer_v2(self.model, opt="adamw", lr=1e-5, weight_decay=0.05)
        else:
            self.model, self.x = self.model.to(dtype), self.x.to(dtype)
        if case.compile:
            self.model = torch.compile(self.model, dynamic=False)

    def check(self, reference: torch.Tensor) -> tuple[float, float]:
        """Relative L2 error against the reference, and how much of it rounding may explain."""
        dtype = self.case.dtype
        if dtype == "float32" and self.device.type == "cuda" and tf32_enabled():
            dtype = "float16"  # TF32 has float16's mantissa
        if self.training:
            return relative_error(self._gradients(), reference), GRADIENT_TOLERANCE[dtype]
        with torch.inference_mode():
            output = flat(part.float().cpu() for part in tree_leaves(self.model(self.x)))
        return relative_error(output, reference), OUTPUT_TOLERANCE[dtype]

    def _loss(self) -> torch.Tensor:
        with torch.autocast(self.device.type, getattr(torch, self.case.dtype), enabled=self._autocast):
            return F.cross_entropy(self.model(self.x).float(), self.target)

    def _gradients(self) -> torch.Tensor:
        torch.manual_seed(self.seed)  # the same dropout and stochastic depth as in the reference
        self._scaler.scale(self._loss()).backward()
        scale = self._scaler.get_scale()
        with torch.no_grad():
            flat = [(p.grad / scale).float().cpu().flatten() for p in self.model.parameters() if p.grad is not None]
        self.model.zero_grad(set_to_none=True)
        return torch.cat(flat)

    def _infer(self, stopwatch: Stopwatch) -> None:
        with torch.inference_mode():
            self.model(self.x)
        stopwatch.mark()

    def _train(self, stopwatch: Stopwatch) -> None:
        loss = self._loss()
        stopwatch.mark()
        self._scaler.scale(loss).backward()
        stopwatch.mark()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        stopwatch.mark()

    def sample_ms(self, steps: int = 1) -> list[float]:
        """Runs some steps back to back, waiting for the device only at the end.

        Returns:
            Mean milliseconds per step of each part: the forward pass, and in training backward and optimizer.
        """
        step = self._train if self.training else self._infer
        stopwatch = Stopwatch(self.device)
        stopwatch.mark()
        for _ in range(steps):
            step(stopwatch)
        parts = stopwatch.read_ms()
        count = len(parts) // steps
        return [sum(parts[i::count]) / steps for i in range(count)]
