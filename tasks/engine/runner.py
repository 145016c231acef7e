"""The runner that every task shares, and what is done with it: train, test, predict."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..pictures import find_pictures
from .checkpoints import load_from_file, load_from_url, newest_checkpoint, read_checkpoint, use_safe_loader
from .config import load_config
from .errors import (
    ConfigError,
    check_checkpoint_hook,
    check_context,
    check_fits,
    check_foreign,
    check_names,
    explain,
    require,
)
from .plain import end_schedule
from .sampling import SeededSampler, accept_seeds
from .schedules import Schedule, check_iterations

__all__ = ["TaskRunner", "build_runner", "predict", "say", "test", "train"]

# Hooks without which a run would not be what the engine promises, whatever a config says.
ESSENTIAL = (
    "SeedHook",
    "GlobalLossHook",
    "DivergenceHook",
    "PlainStateHook",
    "ProgressHook",
    "CatchUpHook",
    "ReportHook",
)
REMEDY = "remove that file to resume from the checkpoint before it"  # said of damaged files only


class TaskRunner(Runner):
    """mmengine's Runner with errors that name the key, atomic and safe checkpoints, and Gloo where there is no GPU."""

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        use_safe_loader()
        if self.distributed and not torch.cuda.is_available() and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")  # mmengine's own way sets a CUDA device first
        super().setup_env(env_cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> logging.Logger:
        """The log file gets everything; the terminal belongs to the progress bar, and to warnings."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = _reraise  # logging's own prints a page for every line that it cannot write
            else:
                handler.setLevel(max(handler.level, logging.WARNING))
                handler.addFilter(lambda record: "deprecated" not in record.getMessage())  # mmengine's, about itself
        return logger

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        with self._naming("model"):
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        if self.distributed and not torch.cuda.is_available():
            on_cpu = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
            unused = self.cfg.get("find_unused_parameters", False)
            model_wrapper_cfg = {**on_cpu, "find_unused_parameters": unused, **(model_wrapper_cfg or {})}
        # Of depthwise convolutions: their gradients are channels_last, DDP's buckets are not. DDP calls it no error.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return super().wrap_model(model_wrapper_cfg, model)

    def build_dataloader(self, dataloader: DataLoader | dict[str, Any], *args: Any, **kwargs: Any) -> DataLoader:
        keys = [key for key in ("train", "val", "test") if getattr(self, f"_{key}_dataloader") is dataloader]
        with self._naming(f"{keys[0]}_dataloader" if keys else "dataloader"):
            built = super().build_dataloader(_with_workers(dataloader), *args, **kwargs)
            if isinstance(built.sampler, SeededSampler) and isinstance(built.dataset, BaseDataset):
                accept_seeds(built.dataset)
            if len(built) == 0:
                size, batch = len(built.dataset), getattr(built.batch_sampler, "batch_size", None)
                raise ValueError(f"no batch in an epoch: {size} images at batch_size {batch}; lower batch_size")
            return built

    def build_train_loop(self, loop: Any) -> Any:
        with self._naming("train_cfg"):
            built = super().build_train_loop(loop)
            if built.max_iters < 1:
                raise ValueError("nothing to train; set max_epochs (or max_iters) to at least 1")
            return built

    def build_val_loop(self, loop: Any) -> Any:
        with self._naming("val_cfg"):
            return super().build_val_loop(loop)

    def build_test_loop(self, loop: Any) -> Any:
        with self._naming("test_cfg"):
            return super().build_test_loop(loop)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        with self._naming("optim_wrapper"):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """A schedule without ``end`` ends with the training."""
        end_schedule(scheduler, self.max_epochs, self.max_iters)
        with self._naming("param_scheduler"):
            return super().build_param_scheduler(scheduler)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        with self._naming("default_hooks, custom_hooks"):
            super().register_hooks(default_hooks, custom_hooks)
            present = {type(hook).__name__ for hook in self._hooks}
            for name in ESSENTIAL:
                if name not in present:
                    self.register_hook({"type": name})

    def load_or_resume(self) -> None:
        """Resuming takes the newest checkpoint by its name: mmengine's ``last_checkpoint`` may be torn by a kill."""
        if self._resume and self._load_from is None and not self._has_loaded:
            newest = newest_checkpoint(self.work_dir)
            if newest is None:
                self.logger.warning(f"{self.work_dir}: no checkpoint to resume from; starting at the beginning")
                self._resume = False
            else:
                self._resume_from(newest)
            self._has_loaded = True
            return
        if self._load_from is not None and not self._resume and not self._has_loaded:
            self._check_foreign(self._load_from)
        super().load_or_resume()

    def _check_foreign(self, file: str) -> None:
        content = load_from_url(file) if file.startswith(("http://", "https://")) else load_from_file(file)
        partly = check_foreign(self.model, content["state_dict"], file)
        if not self.cfg.get("allow_other_context"):
            check_context(self.model, content, file)
        if partly:
            say(partly)

    def _resume_from(self, path: Path) -> None:
        configured = self.seed
        try:
            content = read_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"{error}; {REMEDY}") from error
        anew = f"or start anew from its weights by load_from={path}"
        check_fits(self.model, content, path)
        if not self.cfg.get("allow_other_context"):
            check_context(self.model, content, path)
        check_iterations(self, content, path, anew)
        schedule = Schedule(self)
        try:
            self.resume(str(path))
        except KeyError as error:
            raise ValueError(f"{path}: lacks {error}, which resuming needs; start anew by load_from={path}") from error
        except ValueError as error:
            raise ValueError(
                f"{path}: {error}; resume with the config and options that it was trained with, {anew}"
            ) from error
        if self.seed != configured:
            raise ValueError(
                f"{path}: of a run with seed {self.seed}, not {configured}; set randomness.seed={self.seed}"
            )
        saved = content.get("param_schedulers") or []
        changed = None if isinstance(saved, dict) else schedule.follow(self, saved)
        if changed:
            say(f"{path}: the schedule is computed anew, as {changed}")

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Turns what goes wrong while ``key`` is built into one line that names it and the file."""
        try:
            yield
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, AssertionError, AttributeError, FileNotFoundError) as error:
            raise ConfigError(f"{self.cfg.filename or 'config'}: {key}: {explain(error)}") from error


def _reraise(record: logging.LogRecord) -> None:
    raise  # the error that logging is handling when it calls this


def _with_workers(dataloader: DataLoader | dict[str, Any]) -> DataLoader | dict[str, Any]:
    """No more loading processes than the machine has cores for, no pinned memory without a GPU: no result changes."""
    if isinstance(dataloader, DataLoader):
        return dataloader
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    workers = min(dataloader.get("num_workers", 0), cores if cores > 1 else 0)
    kept = {key: value for key, value in dataloader.items() if workers or key != "persistent_workers"}
    return {**kept, "num_workers": workers, "pin_memory": kept.get("pin_memory", False) and torch.cuda.is_available()}


def build_runner(cfg: Config, work_dir: str | Path | None = None, launcher: str | None = None) -> TaskRunner:
    """A runner for ``cfg``; under torchrun it joins the other processes.

    Args:
        cfg: of `load_config`.
        work_dir: where everything goes; default: the config's ``work_dir``, else ``runs/RUN_NAME OF THE CONFIG``.
        launcher: mmengine's ``none``, ``pytorch``, ``slurm`` or ``mpi``; default: by torchrun's environment variables.

    Raises:
        ConfigError: something in the config cannot be built.
    """
    cfg.work_dir = str(work_dir or _folder(cfg))
    cfg.launcher = launcher or ("pytorch" if "TORCHELASTIC_RUN_ID" in os.environ else "none")
    cfg.setdefault("randomness", {"seed": 0})  # mmengine would draw a seed, and sample by another one after a resume
    saving = cfg.setdefault("default_hooks", {}).setdefault("checkpoint", {"type": "CheckpointHook"})
    saving.setdefault("backend_args", {"backend": "atomic"})
    check_checkpoint_hook(cfg.filename, saving)
    _forget_earlier_runs()
    try:
        return TaskRunner.from_cfg(cfg)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{cfg.filename}: {explain(error)}") from error


def _folder(cfg: Config) -> Path:
    return Path(cfg.get("work_dir") or Path("runs") / cfg.run_name)


def _forget_earlier_runs() -> None:
    """mmengine keeps loggers and histories by name and second: a second run in one process would continue the first."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.visualization import Visualizer

    for manager in (MessageHub, MMLogger, Visualizer, DefaultScope):
        manager._instance_dict.clear()


def train(
    config: str | Path,
    work_dir: str | Path | None = None,
    resume: bool = False,
    amp: str | None = None,
    check_data: bool = False,
    launcher: str | None = None,
    **kwargs: Any,
) -> Path:
    """Trains what a config describes.

    Args:
        config: path or packaged name.
        work_dir: where checkpoints, logs, plots and ``result.json`` go; default as in `build_runner`.
        resume: go on from the newest checkpoint in ``work_dir``, from the beginning if there is none.
        amp: ``bfloat16`` or ``float16`` for mixed precision.
        check_data: read all of the data first; the config's ``checker`` names the module that knows how. What costs
            little is checked anyway.
        launcher: as in `build_runner`.
        **kwargs: ``options``, ``data`` and ``backbone`` as in `load_config`.

    Returns:
        ``work_dir``.

    Raises:
        ConfigError: the config cannot be run.
        ValueError: ``work_dir`` holds a run already, or the checkpoint cannot be read.
    """
    cfg = load_config(config, **kwargs)
    require(cfg, "model", "train_dataloader", "train_cfg", "optim_wrapper")
    if amp:
        cfg.optim_wrapper.update(type="AutocastOptimWrapper", dtype=amp)
    cfg.resume = resume
    folder = Path(work_dir or _folder(cfg))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another --work-dir")
    previous = newest_checkpoint(folder)
    if previous and not resume:
        raise ValueError(
            f"{folder} holds a run up to {previous.name}: add --resume to go on, or choose another --work-dir"
        )
    checker = _checker(cfg)
    if checker:
        importlib.import_module(checker).check_data(cfg, thorough=check_data)
    elif check_data:
        raise ConfigError(f"{cfg.filename}: checker: expected the module that checks this task's data; add it")
    with _one_cause(folder):
        runner = build_runner(cfg, folder, launcher)
        _check_classes(runner, "train", "val")
        say(f"{folder}: logs and TensorBoard files in {Path(runner.log_dir).name}/, checkpoints beside it as they come")
        runner.train()
    return folder


def _checker(cfg: Config) -> str | None:
    """The module that checks a task's data: the config's ``checker``, or ``check`` beside its ``predictor``."""
    if cfg.get("checker"):
        return cfg.checker
    beside = cfg.get("predictor", "").rpartition(".")[0]
    return f"{beside}.check" if beside and importlib.util.find_spec(f"{beside}.check") else None


@contextmanager
def _one_cause(folder: Path) -> Iterator[None]:
    """Errors of a data loader's worker carry its whole traceback as text, and a full disk does not say which it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(f"{folder}: the disk is full; free some space (a run goes on with --resume)") from error
        text = str(error).strip()
        if text.startswith("Caught ") and " in DataLoader worker process " in text:
            raise ValueError(text.splitlines()[-1].partition(": ")[2]) from error
        raise


def test(
    config: str | Path,
    checkpoint: str | Path,
    work_dir: str | Path | None = None,
    launcher: str | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Measures a checkpoint on the config's test set.

    Args:
        config: path or packaged name.
        checkpoint: file that ``train`` wrote.
        work_dir: where logs and pictures go; default: ``test`` beside the checkpoint.
        launcher: as in `build_runner`.
        **kwargs: ``options``, ``data`` and ``backbone`` as in `load_config`.

    Returns:
        Metrics.
    """
    cfg = load_config(config, **kwargs)
    require(cfg, "model", "test_dataloader", "test_cfg", "test_evaluator")
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint)  # before anything is built or written
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        cfg.pop(key, None)
    cfg.load_from, cfg.resume = str(checkpoint), False
    folder = Path(work_dir or checkpoint.parent / "test")
    with _one_cause(folder):
        runner = build_runner(cfg, folder, launcher)
        _check_classes(runner, "test")
        check_fits(runner.model, content, checkpoint)
        if not cfg.get("allow_other_context"):
            check_context(runner.model, content, checkpoint)
        trained_on = (content.get("meta", {}).get("dataset_meta") or {}).get("classes")
        check_names(cfg, checkpoint.name, trained_on, "test", _classes(runner.test_dataloader))
        return runner.test()


def predict(
    config: str | Path,
    checkpoint: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    score_threshold: float | None = None,
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """Labels pictures: an annotated copy of each, and ``predictions.json``, in the folder ``out``.

    Args:
        config: path or packaged name; its ``predictor`` names the module that knows how (one per task).
        checkpoint: file that ``train`` wrote.
        images: picture files, videos (every frame), and folders of both.
        out: folder.
        score_threshold: of objects that are listed and drawn (detection); default: what the task says.
        **kwargs: ``options``, ``data`` and ``backbone`` as in `load_config`.

    Returns:
        One record per picture.
    """
    from mmengine.registry import MODELS

    cfg = load_config(config, **kwargs)
    content = read_checkpoint(checkpoint)
    require(cfg, "model", "predictor")
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"{out} is not a folder; choose another --out")
    module = importlib.import_module(cfg.predictor)
    if score_threshold is not None:
        if not hasattr(module, "LEAST_SCORE"):
            raise ValueError(f"score_threshold: {cfg.predictor} gives no scores to objects; leave it out")
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold: expected a share from 0 to 1, got {score_threshold}")
        cfg.predict_cfg = {**cfg.get("predict_cfg", {}), "score_threshold": score_threshold}
    files = find_pictures(images)  # before anything is written
    _forget_earlier_runs()
    init_default_scope(cfg.get("default_scope", "mmengine"))
    model = MODELS.build(cfg.model).eval()
    check_fits(model, content, Path(checkpoint))
    if not cfg.get("allow_other_context"):
        check_context(model, content, Path(checkpoint))
    model.load_state_dict(content["state_dict"])
    return module.predict(model, cfg, content.get("meta", {}), files, Path(out))


def _classes(dataloader: DataLoader) -> Sequence[str] | None:
    return getattr(dataloader.dataset, "metainfo", {}).get("classes")


def _check_classes(runner: TaskRunner, *keys: str) -> None:
    """The model's number of classes against that of data sets, and the classes of data sets against each other."""
    model = getattr(runner.model, "module", runner.model)
    classes = getattr(model, "num_classes", None)
    if classes is None:
        return
    first: tuple[str, Sequence[str]] | None = None
    for key in keys:
        names = None if getattr(runner, f"_{key}_loop") is None else _classes(getattr(runner, f"{key}_dataloader"))
        if names is None:
            continue
        if first is not None:
            check_names(runner.cfg, *first, key, names)
        elif len(names) != classes:
            raise ConfigError(
                f"{runner.cfg.filename}: model.num_classes is {classes}, but {key}_dataloader.dataset has {len(names)} "
                f"classes; set model.num_classes={len(names)}"
            )
        first = first or (f"{key}_dataloader.dataset", names)


def say(text: str) -> None:
    """Prints once, whatever the number of processes."""
    if is_main_process():
        print(text, flush=True)
