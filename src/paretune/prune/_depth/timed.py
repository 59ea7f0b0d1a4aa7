"""Towards a latency: blocks go by what is lost for the time that each saves, until what is left is fast enough.

What a block saves is measured: the model without it is exported and timed in turns with the whole model. So is
every choice that may be the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from torch import nn

from paretune.errors import InfeasibleError
from paretune.prune._depth.block_scores import Judge
from paretune.prune._depth.residual import Block
from paretune.prune._selection.budget import MARGIN, target_amount
from paretune.prune._stopwatch import Stopwatch, in_words

if TYPE_CHECKING:
    from paretune.measurement import Latency

LEAST = 1e-3
"""Of the whole model's time: what a block saves at least, since noise may say that it saves nothing."""


class BlockTimes:
    """Times a model without some of its blocks; each choice once."""

    def __init__(self, watch: Stopwatch, without: Callable[[Sequence[Block]], nn.Module]) -> None:
        """without: blocks -> the model without them."""
        self.watch, self._without = watch, without
        self.seen: dict[frozenset[str], Latency] = {}

    def timed(self, gone: Sequence[Block]) -> Latency:
        """Export and time the model without these blocks."""
        key = frozenset(block.name for block in gone)
        if key not in self.seen:
            self.seen[key] = self.watch.time(self._without(gone) if gone else None)
        return self.seen[key]

    def told(self, gone: Sequence[Block]) -> str:
        """Return what was timed, in words."""
        seen = in_words(self.timed(gone), self.watch.target)
        return f"latency: {seen}, one of {len(self.seen)} choices that were timed"


def until_fast(
    model: nn.Module, pool: Sequence[Block], most: int, asked: float | str, judge: Judge, times: BlockTimes
) -> tuple[dict[Block, float], str]:
    """Return what goes so that the latency holds, at most so many blocks, with scores; and what was timed."""
    whole = times.timed(()).median_ms
    limit = target_amount("latency", asked, whole, "prune.blocks")
    relative = target_amount("latency", asked, 2 * whole, "prune.blocks") != limit

    def holds(gone: Sequence[Block]) -> bool:
        seen = times.timed(gone)
        return (seen.ratio * whole if relative else seen.median_ms) <= MARGIN * limit

    if limit >= whole:
        return {}, times.told(())
    saved = {block.name: max(LEAST, 1 - times.timed([block]).ratio) for block in pool}
    with closing(judge(model, pool, saved)) as order:
        scores = dict(order)
    path = list(scores)[:most]
    if not holds(path):
        path = sorted(pool, key=lambda block: -saved[block.name])[:most]
        if not holds(path):
            raise InfeasibleError(
                _out_of_reach(asked, MARGIN * limit, len(path), len(pool), times.timed(path), whole)
            )
    gone = _fewest(path, holds, lambda gone: 1 - sum(saved[block.name] for block in gone) <= limit / whole)
    for block in list(gone):  # a costly block may have made others needless
        if len(gone) > 1 and holds([other for other in gone if other is not block]):
            gone.remove(block)
    return {block: scores[block] for block in gone}, times.told(gone)


def _fewest(
    path: list[Block], holds: Callable[[Sequence[Block]], bool], should: Callable[[Sequence[Block]], bool]
) -> list[Block]:
    """Return the shortest beginning of a path that holds, looked for from where it should; all of it holds."""
    count = next((n for n in range(1, len(path)) if should(path[:n])), len(path))
    while not holds(path[:count]):
        count += 1
    while count > 1 and holds(path[: count - 1]):
        count -= 1
    return path[:count]


def _out_of_reach(asked: float | str, limit: float, gone: int, of: int, least: Latency, whole: float) -> str:
    return (
        f"prune.blocks: latency={asked} is {limit:.3g} ms, and without {gone} of its {of} blocks the model takes "
        f"{least.median_ms:.3g} ms ({least.ratio:.3f} of its {whole:.3g}). Nothing was removed. Keep more, "
        "protect fewer blocks, or prune channels too"
    )
