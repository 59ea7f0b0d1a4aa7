"""Batch-norm recalibration: measure the running statistics anew after the weights before them changed.

Surgery, quantization and weight averaging change what reaches a batch norm, while its running mean and variance
still describe the old model; a pruned network can lose tens of points to that alone. Forward passes over a few
hundred training samples mend it, without a gradient. The averages are cumulative (`momentum=None`), as in
`torch.optim.swa_utils.update_bn` (Izmailov et al. 2018, arXiv:1803.05407), which this replaces: that one puts
dropout in training mode too, and takes only models that are called with one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from paretune.data import Data, as_device, call, tensors_of
from paretune.errors import DataError
from paretune.train._seeding import generator


def recalibrate_batch_norm(
    model: nn.Module,
    data: Data,
    *,
    samples: int = 512,
    augment: Callable[[Any, torch.Generator], Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> nn.Module:
    """Replace the running statistics of every batch norm, in place, and return the model.

    data: the training split, `task.data("train")`; pass `task.augment` too if the model was trained with it.
    samples: how many samples to average over, shuffled by `seed`; fewer if the data hold fewer.
    A model without running statistics is returned untouched. Only batch norms are in training mode meanwhile
    (dropout is off, as it is at inference); momenta and modes are afterwards as before. The model is moved to
    `device` and stays there. Data with a single sample is a DataError: one sample has no variance.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return model
    momenta = [norm.momentum for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    model.to(device).eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            for inputs in _batches(data, samples, augment, seed):
                call(model, as_device(inputs, device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return model


def _batches(
    data: Data, samples: int, augment: Callable[[Any, torch.Generator], Any] | None, seed: int
) -> Iterator[Any]:
    """Yield inputs in batches of nearly equal size, because a cumulative average weighs them equally."""
    count = min(samples, len(data))
    if count < 2:
        raise DataError(
            f"recalibrating batch norm needs at least 2 samples of task.{data.name}, and would get {count}; "
            "one sample has no variance"
        )
    steps = -(-count // max(2, data.batch_size))
    shuffled = data.batches(batch_size=-(-count // steps), shuffle=(seed, 0), limit=count)
    for index, (inputs, _) in enumerate(shuffled):
        if len(tensors_of(inputs)[0]) > 1:  # a last batch of one would have no variance
            yield augment(inputs, generator(seed, 0, index)) if augment else inputs
