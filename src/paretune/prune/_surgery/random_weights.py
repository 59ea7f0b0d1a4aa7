"""Random weights: the analysed model once more, with weights and inputs under which a mistake shows.

What a model computes with its own weights on its own example may hide one: a branch that a layer scale of 1e-6
mutes, a last layer that was initialised to zero, an example of zeros, attention that is still uniform. A cut is
right for any weights or for none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from paretune.data import map_tensors
from paretune.prune._capture.given import copied

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis


def at_random(analysis: Analysis) -> Analysis:
    """Return the analysis of a copy of the model whose weights and inputs are drawn at random, always the same."""
    model = copied(analysis.model)
    generator = torch.Generator().manual_seed(0)
    _draw(model, generator)

    def drawn(tensor: torch.Tensor) -> torch.Tensor:
        return _normal(tensor, generator) if tensor.is_floating_point() else tensor

    example = map_tensors(drawn, analysis.captured.example)
    other = replace(analysis, model=model, captured=replace(analysis.captured, example=example))
    vars(other)["numbers"] = None  # it runs at the captured batch: nothing has to follow another
    return other


def _draw(model: nn.Module, generator: torch.Generator) -> None:
    """Set every parameter so that activations keep about the size that they have: scales near 1, small biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            values = _normal(parameter, generator)
            if sum(size > 1 for size in parameter.shape) > 1:
                values = values / max(1, parameter[0].numel()) ** 0.5
            else:
                values = 0.3 * values + (0.0 if name.endswith("bias") else 1.0)
            parameter.copy_(values)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.fill_(float(name.endswith("var")))


def _normal(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator).to(like)
