"""A model under gates: what reads a gated channel reads it times its gate.

The gate is not multiplied to the channel, an activation of every sample, but to the weights that read it, which
comes to the same, costs next to nothing, and says exactly what a cut does: at gates of 0 and 1 this is the masked
model that a cut is compared with. It can be folded into those weights for good. A batch norm between a channel and
what reads it cannot undo the gate either, as it would undo one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paretune.errors import RunError
from paretune.prune._couplings.parts import tensor_of
from paretune.prune._learned.expected import Expected
from paretune.prune._learned.places import Places, Read
from paretune.prune._learned.recursion import layer_of, move, start_of

POINTS = 32
"""Of a training, about so many are kept of the way of beta."""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Trajectory:
    """The way of beta over a training, of the channels of one group."""

    group: str
    channels: int
    steps: tuple[int, ...]
    """Steps of training made, 0 first."""
    quantiles: tuple[tuple[float, ...], ...]
    """For each of these steps the least beta, the lower quartile, the median, the upper quartile and the
    greatest."""


class Gated(nn.Module):
    """A model whose channels have gates. The betas, and all that their training must remember, are in its
    state."""

    beta: Tensor
    """(gates,), those of one group side by side."""
    squares: Tensor
    """(gates,): Adagrad's sums."""
    kept: Tensor
    """(points, groups, quantiles): the way of beta."""
    kept_at: Tensor
    """(points,): the step of each, -1 where there was none."""
    table: Tensor
    """(positions of all axes that read, factors): the gates there."""

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        reads: Sequence[Read],
        cost: Expected,
        limit: float,
        *,
        together: bool,
    ) -> None:
        super().__init__()
        self.model, self.cost, self.limit, self.together = model, cost, limit, together
        self.spans = places.spans()
        start = torch.cat([torch.full((s.stop - s.start,), start_of(s.stop - s.start)) for s in self.spans])
        self.register_buffer("beta", start)
        self.register_buffer("squares", torch.zeros_like(start))
        self.register_buffer("kept", torch.zeros(POINTS + 1, len(self.spans), len(QUANTILES)))
        self.register_buffer("kept_at", torch.full((POINTS + 1,), -1))
        self.reads = tuple((read.tensor, read.axis, read.gates.shape[:2]) for read in reads)
        factors = max(read.gates.shape[2] for read in reads)
        table = [
            nn.functional.pad(torch.from_numpy(read.gates), (0, factors - read.gates.shape[2]), value=places.count)
            for read in reads
        ]
        self.register_buffer("table", torch.cat([each.flatten(0, 1) for each in table]), persistent=False)
        self._leaf = start.clone()
        self._keep(0, 0)

    def train(self, mode: bool = True) -> Gated:
        """Set the mode; where the weights stay, the model under the gates stays in eval mode."""
        super().train(mode)
        if not self.together:
            self.model.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model gives under its gates; in train mode the gates get a gradient."""
        self._leaf = self.beta.clone()
        if self.training and torch.is_grad_enabled():
            self._leaf.requires_grad_()
        given = {} if self.together else {name: p.detach() for name, p in self.model.named_parameters()}
        return functional_call(self.model, given | self.weights(self._leaf), args, kwargs)

    def weights(self, beta: Tensor) -> dict[str, Tensor]:
        """Return the weights that read gated channels, times the gates."""
        gates = torch.cat([torch.sigmoid(beta), beta.new_ones(1)])
        found: dict[str, Tensor] = {}
        lengths = [blocks * length for _, _, (blocks, length) in self.reads]
        factors = torch.split(gates[self.table].prod(1), lengths)
        for (name, axis, (blocks, length)), factor in zip(self.reads, factors, strict=True):
            weight = found.get(name)
            if weight is None:
                weight = tensor_of(self.model, name)
                weight = weight if self.together else weight.detach()
            shape = [1] * (weight.dim() + 1)
            shape[0], shape[axis + 1] = blocks, length
            split = weight.reshape(blocks, -1, *weight.shape[1:])
            found[name] = (split * factor.to(weight.dtype).reshape(shape)).reshape(weight.shape)
        return found

    def excess(self) -> Tensor:
        """Return by what part of the budget the cost is above it, under the gates of the last forward.

        A channel counts while its gate is above a half; the slope is that of the expected cost, where it counts as
        much as its gate is open. By the expected cost alone a budget is met with every gate half open, which
        weights that are trained and batch norms make up for, and nothing is chosen.
        """
        gates = torch.sigmoid(self._leaf)
        cost: Tensor = self.cost((gates >= 0.5).to(gates.dtype) + gates - gates.detach())
        return (cost / self.limit - 1).relu()  # whose slope at 0 is 0: a budget that is met asks for no more

    def learn(self, step: int, steps: int, *, recursion: str, optimizer: str, rate: float) -> None:
        """Move the betas whose turn it is by the gradient of the last batch, and note where they are."""
        gradient = self._leaf.grad
        if gradient is None or not bool(torch.isfinite(gradient).all()):
            raise RunError(
                f"prune.learned: the gradient of beta at step {step} is not finite; lower rate={rate:g}, or look "
                "for NaN in the data"
            )
        turn = layer_of(recursion, step, len(self.spans))
        span = slice(None) if turn is None else self.spans[turn]
        move(self.beta[span], self.squares[span], gradient[span], optimizer=optimizer, rate=rate)
        if step * POINTS // steps > (step - 1) * POINTS // steps:
            self._keep(step * POINTS // steps, step)

    @torch.no_grad()
    def _keep(self, point: int, step: int) -> None:
        self.kept_at[point] = step
        at = self.beta.new_tensor(QUANTILES)
        for index, span in enumerate(self.spans):
            self.kept[point, index] = self.beta[span].quantile(at)

    def trajectories(self, names: Sequence[str]) -> tuple[Trajectory, ...]:
        """Return the way of beta for each group, by its name."""
        there = (self.kept_at >= 0).nonzero()[:, 0]
        steps = tuple(self.kept_at[there].tolist())
        return tuple(
            Trajectory(
                name,
                span.stop - span.start,
                steps,
                tuple(tuple(round(value, 4) for value in row) for row in self.kept[there, index].tolist()),
            )
            for index, (name, span) in enumerate(zip(names, self.spans, strict=True))
        )

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """Multiply the gates into the weights, in place, and return the model: it computes the same."""
        for name, weight in self.weights(self.beta).items():
            tensor_of(self.model, name).copy_(weight)
        return self.model
