"""Train mode: whether a graph that is delivered trains as the model's own code does, and what it does instead.

A graph is captured in eval mode. Batch norm and dropout become modules again, and most models train in it as they
did; what else their code does in training alone (gradients of its own, a branch, statistics kept by hand) is lost.
That is no reason to refuse a cut, but one to say so: what trains can be another function than what is measured.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx, nn

from paretune.data import call, kept_random_state
from paretune.graphs import placed
from paretune.prune._capture.capture import in_words
from paretune.prune._capture.given import copied
from paretune.prune._compare import relative_gap, tensors_in

NEAR = 1e-3
"""Relative; gradients in float32 differ by the order of their sums."""


class _Step(NamedTuple):
    outputs: list[torch.Tensor]
    gradients: dict[str, torch.Tensor | None]
    buffers: dict[str, torch.Tensor]


def trains_otherwise(model: nn.Module, graph: fx.GraphModule | None, example: Any) -> str:
    """Return in words what a training step does in the graph of a model that it does not in its code, or "".

    graph: of the same weights, uncut; None is not compared. Where the code draws random numbers in an order of its
    own, only gradients that are there or not are compared. A model that cannot do a training step by itself (it
    needs targets) is not compared.
    """
    if graph is None:
        return ""
    try:
        own, again = _step(model, example, 0), _step(model, example, 1)
    except Exception:
        return ""
    try:
        its, other = _step(graph, example, 0), _step(graph, example, 1)
    except Exception as error:
        return f"it fails ({in_words(error)})"
    if [t.shape for t in own.outputs] != [t.shape for t in its.outputs]:
        return "its outputs have the shapes of evaluation"
    drawn, draws = (_gap(a.outputs, b.outputs) > NEAR for a, b in ((own, again), (its, other)))
    if drawn and not draws:
        return "nothing in it is drawn at random any more"
    alike = _gap(own.outputs, its.outputs) <= NEAR
    if not alike and not drawn:
        return "its outputs are others (a batch norm that trains or does not, a branch that only training takes)"
    for name, gradient in own.gradients.items():
        found = its.gradients.get(placed(name), gradient)
        if (gradient is None) != (found is None):
            return f"{name} gets {'no gradient' if found is None else 'a gradient, and has none in the code'}"
        if alike and gradient is not None and found is not None and relative_gap(gradient, found) > NEAR:
            return f"the gradient of {name} is another"
    for name, buffer in own.buffers.items():
        found = its.buffers.get(placed(name), buffer)
        if alike and relative_gap(buffer, found) > NEAR:
            return f"{name} is kept otherwise"
    return ""


def _step(model: nn.Module, example: Any, seed: int) -> _Step:
    """Return what one step of a copy gives, in the modes that `train()` puts its modules into."""
    twin = copied(model).train()
    twin.zero_grad(set_to_none=True)
    with kept_random_state(), torch.enable_grad():
        torch.manual_seed(seed)
        outputs = tensors_in(call(twin, example))
        generator = torch.Generator().manual_seed(0)
        terms = [
            (each * torch.randn(each.shape, generator=generator).to(each)).sum()
            for each in outputs
            if each.is_floating_point() and each.requires_grad
        ]
        torch.stack([term.float() for term in terms]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.requires_grad}
    return _Step([each.detach() for each in outputs], gradients, dict(twin.named_buffers()))


def _gap(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max((relative_gap(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
