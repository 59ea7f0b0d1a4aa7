"""The contract of a score: what every function of the family `scores` must hold, ours or a stranger's."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

CHANNELS, INPUTS, SAMPLES = 6, 4, 5
SHAPES: dict[str, tuple[int, ...]] = {
    "weight": (CHANNELS, INPUTS, 3, 3),
    "grad": (CHANNELS, INPUTS, 3, 3),
    "activation": (SAMPLES, CHANNELS, 7, 7),
    "bn_weight": (CHANNELS,),
}
"""What a score may ask for by the name of its argument, with the shape that it is given here."""


def check_score(score: Callable[..., Tensor]) -> None:
    """Raise an AssertionError that says which rule a score breaks.

    The rules: its arguments are names of SHAPES; it returns one finite float32 number for each output channel;
    it changes nothing it was given; equal inputs give equal scores; and channels have no order, so permuted
    channels have permuted scores.
    """
    names = _required(score)
    unknown = [name for name in names if name not in SHAPES]
    assert not unknown, f"a score is given {', '.join(SHAPES)} by name; it asks for {', '.join(unknown)}"
    given = _inputs(names)
    before = {name: tensor.clone() for name, tensor in given.items()}
    scores = score(**given)
    assert scores.shape == (CHANNELS,), (
        f"one score for each output channel: ({CHANNELS},), got {tuple(scores.shape)}"
    )
    assert scores.dtype == torch.float32, f"scores are float32, got {scores.dtype}"
    assert bool(scores.isfinite().all()), f"scores are finite, got {scores.tolist()}"
    for name, tensor in given.items():
        assert torch.equal(tensor, before[name]), f"a score must not change {name}"
    assert torch.equal(score(**given), scores), "equal inputs give equal scores"
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    moved = {name: tensor.index_select(_axis(name), order) for name, tensor in given.items()}
    torch.testing.assert_close(score(**moved), scores[order], msg="permuted channels must have permuted scores")


def _required(score: Callable[..., Tensor]) -> list[str]:
    parameters = inspect.signature(score).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]


def _inputs(names: list[str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(SHAPES[name], generator=generator) for name in names}


def _axis(name: str) -> int:
    """Return the axis of the output channels."""
    return 1 if name == "activation" else 0
