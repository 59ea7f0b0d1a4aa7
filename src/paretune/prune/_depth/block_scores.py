"""Scores of residual blocks: in which order they go.

- `similarity`: the Block Influence of ShortGPT, 1 - mean cosine between what enters a block and what leaves it
  (Men et al., arXiv:2403.03853), measured once.
- `loss`: the loss once the block is skipped, measured again after each removal for all that are left, as SLEB
  removes blocks (Song et al., ICML 2024, arXiv:2402.09025). It takes a pass over the data for every block that is
  left, at each removal, and on few samples it follows their noise.
- a score of weights alone (`l1`): the mean over the channels of the block's weights, divided by the mean of that
  over all blocks whose weights have the same shapes, for unlike blocks do not compare raw (Fang et al., ECCV 2024,
  arXiv:2407.04616). It needs no data and knows nothing of what passes the block by: use one of the others where
  there are data. Magnitude as a criterion for depth: Kim et al., "Shortened LLaMA", arXiv:2402.02834.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from paretune._skip import bind, positional_arguments
from paretune.data import Batch, call, tensors_of
from paretune.errors import InputError, RunError
from paretune.methods import find
from paretune.prune._capture.capture import on_device_of
from paretune.prune._depth.residual import Block, skipped
from paretune.prune._float64 import in_float64

Batches = Callable[[], Iterator[Batch]]
Loss = Callable[[Any, Any], torch.Tensor]
Score = Callable[..., torch.Tensor]
Order = Generator[tuple[Block, float], None, None]
Saved = Mapping[str, float]
"""What each block saves, by name, in any unit."""
Judge = Callable[[nn.Module, Sequence[Block], Saved | None], Order]
"""(model in eval mode, blocks, saved) -> (block, score), the first first; by loss, those yielded stay skipped.

saved: blocks then go in the order of what is lost for what each saves.
"""


def judge_of(score: str | Score | None, batches: Batches | None, criterion: Loss | None) -> Judge:
    """Return how blocks are ordered; what a score needs and has not got is an InputError.

    score: `similarity` where there are data and `l1` where there are none, if it is None.
    """
    score = score or ("l1" if batches is None else "similarity")
    if score not in ("similarity", "loss"):
        function = _of_weights(score)
        return lambda model, pool, saved: _lowest_first(pool, weight_scores(model, pool, function), saved)
    if batches is None:
        raise InputError(
            f"prune.blocks: score '{score}' is measured on data: pass data=(inputs, target), a Dataset or a "
            "DataLoader; score='l1' needs none"
        )
    if score == "similarity":
        return lambda model, pool, saved: _lowest_first(pool, influences(model, pool, batches), saved)
    if criterion is None:
        raise InputError(
            "prune.blocks: score 'loss' needs a loss: pass loss='cross_entropy', or a function (output, target) "
            "-> scalar; score='similarity' needs inputs alone"
        )
    return lambda model, pool, saved: _least_loss_first(model, pool, batches, criterion, saved)


def _of_weights(score: str | Score) -> Score:
    if not isinstance(score, str) and not callable(score):
        raise InputError(
            f"prune.blocks: score={score!r} must be similarity, loss, a name that `paretune methods scores` "
            "lists, or a function of weight"
        )
    function: Score = find("scores", score) if isinstance(score, str) else score
    required = [
        n for n, p in inspect.signature(function).parameters.items() if p.default is inspect.Parameter.empty
    ]
    if required != ["weight"]:
        raise InputError(
            f"prune.blocks: score '{getattr(function, '__name__', score)}' is not of weights alone; blocks are "
            "scored by similarity, by loss, or by a score of `weight` alone like l1"
        )
    return function


def _lowest_first(pool: Sequence[Block], scores: Mapping[str, float], saved: Saved | None) -> Order:
    """Yield the blocks, the lowest score first; one that could not be scored goes last."""
    finite = {name: score if math.isfinite(score) else math.inf for name, score in scores.items()}
    for block in sorted(pool, key=lambda block: _price(finite[block.name], block, saved)):
        yield block, finite[block.name]


def _price(lost: float, block: Block, saved: Saved | None) -> float:
    """Return what is lost for each unit that is saved; of what is won, the more that saves the better."""
    if saved is None:
        return lost
    return lost / saved[block.name] if lost > 0 else lost * saved[block.name]


def _least_loss_first(
    model: nn.Module, pool: Sequence[Block], batches: Batches, criterion: Loss, saved: Saved | None
) -> Order:
    """Yield the block without which the loss is least, with that loss; then the next, without the first."""
    left = list(pool)
    now = 0.0 if saved is None else mean_loss(model, batches, criterion)
    with ExitStack() as gone:
        while left:
            losses = []
            for block in left:
                with skipped(model, [block]):
                    losses.append(mean_loss(model, batches, criterion))
            prices = [_price(loss - now, block, saved) for loss, block in zip(losses, left, strict=True)]
            best = min(range(len(left)), key=lambda i: prices[i] if math.isfinite(prices[i]) else math.inf)
            if not math.isfinite(losses[best]):
                raise RunError(
                    f"prune.blocks: the loss on the data is {losses[best]} whichever block is skipped: look for "
                    "NaN in the data and in the loss"
                )
            block = left.pop(best)
            gone.enter_context(skipped(model, [block]))
            now = 0.0 if saved is None else losses[best]
            yield block, losses[best]


def mean_loss(model: nn.Module, batches: Batches, criterion: Loss) -> float:
    """Return the loss of a model over data: the mean over batches, weighted by their samples."""
    total, samples = 0.0, 0
    for inputs, target in batches():
        if target is None:
            raise InputError("prune.blocks: score 'loss' needs targets, and the data yield inputs alone")
        inputs, target = on_device_of(model, inputs), on_device_of(model, target)
        count = len(tensors_of(inputs)[0])
        total += float(criterion(call(model, inputs), target)) * count
        samples += count
    return total / samples


def influences(model: nn.Module, pool: Sequence[Block], batches: Batches) -> dict[str, float]:
    """Return the mean influence of each block over all vectors of the data; infinite where it does not run."""
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    before: dict[str, torch.Tensor] = {}

    def watch(name: str, module: nn.Module) -> Iterator[Any]:
        positional = positional_arguments(module)

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # a copy: blocks that begin with an activation in place change their input
            before[name] = next(iter(bind(positional, args, kwargs).values())).clone()

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            found[name].append(influence(before.pop(name), tensors_of(output)[0]))

        yield module.register_forward_pre_hook(enter, with_kwargs=True)
        yield module.register_forward_hook(leave)

    handles = [handle for block in pool for handle in watch(block.name, model.get_submodule(block.name))]
    try:
        for inputs, _ in batches():
            call(model, on_device_of(model, inputs))
    finally:
        for handle in handles:
            handle.remove()
    means = {b.name: float(torch.cat(found[b.name]).mean()) if found[b.name] else math.inf for b in pool}
    if any(math.isnan(mean) for mean in means.values()):
        raise RunError("prune.blocks: what blocks give on the data is not finite: look for NaN in the data")
    return means


def influence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return 1 - cosine between what enters a block and what leaves it, one number for each vector.

    before, after: of one shape. Of (batch, tokens, channels) every token is a vector, as in the paper; of any
        other shape every sample is, since which axis holds the channels is then not known.
    Returns (vectors,) float64, from 0 (the block only rescales) to 2. A vector of zeros has influence 1.

    >>> influence(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), torch.tensor([[[2.0, 0.0], [1.0, -1.0]]]))
    tensor([0., 1.], dtype=torch.float64)
    """
    x, y = (in_float64(t).flatten(0, 1) if t.dim() == 3 else in_float64(t).flatten(1) for t in (before, after))
    return 1 - functional.cosine_similarity(x, y, dim=1)


def weight_scores(model: nn.Module, pool: Sequence[Block], score: Score) -> dict[str, float]:
    """Return for each block the mean score of its channels, over that of the blocks that are shaped like it."""
    raw: dict[str, float] = {}
    like: dict[tuple[torch.Size, ...], list[str]] = defaultdict(list)
    for block in pool:
        weights = [p for p in model.get_submodule(block.name).parameters() if p.dim() > 1]
        raw[block.name] = float(torch.cat([score(weight).flatten() for weight in weights]).cpu().double().mean())
        like[tuple(weight.shape for weight in weights)].append(block.name)
    return {
        name: raw[name] / max(sum(raw[other] for other in names) / len(names), 1e-30)
        for names in like.values()
        for name in names
    }
