"""The one way to build and launch an mmengine Runner: read a config, train, test, predict.

Every task goes through here, so the traps of mmengine are met once: Gloo instead of NCCL on CPUs, checkpoints that
execute nothing and survive a kill, randomness that a resumed run repeats, timm models that must not be initialised
twice, and errors that name the config file and the key.
"""

from __future__ import annotations

from . import divergence, hooks, optim, sampling  # registers them with mmengine
from .config import config_names, find_config, load_config, parse_options
from .errors import ConfigError, DivergenceError
from .runner import TaskRunner, build_runner, predict, say, test, train

__all__ = [
    "ConfigError",
    "DivergenceError",
    "TaskRunner",
    "build_runner",
    "config_names",
    "divergence",
    "find_config",
    "hooks",
    "load_config",
    "optim",
    "parse_options",
    "predict",
    "sampling",
    "say",
    "test",
    "train",
]
