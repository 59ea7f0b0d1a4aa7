"""The contract of a score: what every function of the family `scores` must hold, ours or a stranger's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from paretune.errors import InputError
from paretune.prune._evidence.evidence import SIDES, needs, role

UNITS, OTHER, SAMPLES, KERNEL = 6, 4, 5, (3, 3)
WEIGHT = (UNITS, OTHER, *KERNEL)
SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("weight", "grad", "hessian_grad", "flow_grad"), WEIGHT),
    **dict.fromkeys(("output", "output_grad", "activation"), (SAMPLES, UNITS, 7, 7)),
    **dict.fromkeys(("input_norm", "inverse_diagonal"), (UNITS, 1, *KERNEL)),
    "hessian": (UNITS * 9, UNITS * 9),
    "bn_weight": (UNITS,),
}
"""What a score may ask for by the name of its argument, with the shape that it is given here."""


def check_score(score: Callable[..., Tensor]) -> None:
    """Raise an AssertionError that says which rule a score breaks.

    The rules: its arguments are names of SHAPES, all of one layer; it returns one finite float32 number for each
    unit; it changes nothing it was given; equal inputs give equal scores; and units have no order, so permuted
    units have permuted scores. A score with an argument `of` is checked for both of its sides.
    """
    for form in _forms(score):
        _check(form)


def _forms(score: Callable[..., Tensor]) -> list[Callable[..., Tensor]]:
    if "of" not in inspect.signature(score).parameters:
        return [score]
    return [partial(score, of=side) for side in SIDES]


def _check(score: Callable[..., Tensor]) -> None:
    try:
        names = needs(score)
        role(score)
    except InputError as error:
        raise AssertionError(str(error)) from error
    given = _inputs(names)
    before = {name: tensor.clone() for name, tensor in given.items()}
    scores = score(**given)
    assert scores.shape == (UNITS,), f"one score for each output channel: ({UNITS},), got {tuple(scores.shape)}"
    assert scores.dtype == torch.float32, f"scores are float32, got {scores.dtype}"
    assert bool(scores.isfinite().all()), f"scores are finite, got {scores.tolist()}"
    for name, tensor in given.items():
        assert torch.equal(tensor, before[name]), f"a score must not change {name}"
    assert torch.equal(score(**given), scores), "equal inputs give equal scores"
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    moved = {name: _permuted(name, tensor, order) for name, tensor in given.items()}
    torch.testing.assert_close(score(**moved), scores[order], msg="permuted channels must have permuted scores")


def _inputs(names: tuple[str, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(SHAPES[name], generator=generator) for name in names}
    for name in ("input_norm", "inverse_diagonal"):
        if name in found:
            found[name] = found[name].abs() + 0.1
    if "hessian" in found:
        found["hessian"] = found["hessian"] @ found["hessian"].T / len(found["hessian"])
    return found


def _permuted(name: str, tensor: Tensor, order: Tensor) -> Tensor:
    if name != "hessian":
        return tensor.index_select(1 if name in ("output", "output_grad", "activation") else 0, order)
    rows = (order[:, None] * 9 + torch.arange(9)).flatten()
    return tensor[rows][:, rows]
