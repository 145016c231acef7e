"""Initialisation of a whole network."""

from __future__ import annotations

from torch import nn


def reset_parameters(network: nn.Module) -> None:
    """Calls ``reset_parameters`` of every module that has one, as the constructors of these modules did.

    Raises:
        RuntimeError: a module has parameters or buffers of its own and no such method, and would stay as it is.
    """
    for name, module in network.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif module is not network and any(True for _ in (*module.parameters(False), *module.buffers(False))):
            raise RuntimeError(f"{name} ({type(module).__name__}) has parameters and no reset_parameters()")
