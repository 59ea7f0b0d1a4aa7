"""The optimizers, and their state as named tensors, so that a checkpoint needs no pickle.

SGD with Nesterov-free momentum; Adam (Kingma and Ba, arXiv:1412.6980), whose weight decay is added to the
gradient; AdamW (Loshchilov and Hutter, arXiv:1711.05101), whose weight decay is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from paretune.errors import TaskError


def make_optimizer(
    model: nn.Module, name: str, *, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """Return the optimizer over the trainable parameters.

    Weight decay is for tensors of two axes and more: a bias or a norm's scale has no reason to be small.
    momentum: SGD's; Adam and AdamW use their usual betas 0.9 and 0.999.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise TaskError("the model has no parameter with requires_grad=True, so there is nothing to train")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    return torch.optim.Adam(groups, lr=lr) if name == "adam" else torch.optim.AdamW(groups, lr=lr)


def state_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the optimizer's tensors as `PARAMETER/KEY`, for example `conv.weight/exp_avg`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what `state_tensors` returned, into a fresh optimizer over the same model."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        optimizer.state[parameters[name]][key] = _like(value, parameters[name])


def _like(value: torch.Tensor, parameter: nn.Parameter) -> Any:
    """Give a moment the parameter's device and strides; a counter (no axes) stays as it is."""
    if value.shape != parameter.shape or value.ndim == 0:
        return value.clone()
    # The same strides as in an undisturbed run, or kernels take another path and the last bit differs.
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
