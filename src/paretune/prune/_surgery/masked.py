"""The oracle: the uncut model with the removed channels masked where they are read, as the captured graph computes
it.

What a cut must compute: every weight that reads removed channels has those slices at zero, a product of two
activations leaves them out, and norms and softmax take their statistics over what stays. Everything else, the
removed channels themselves included, flows as it did; where one of them reaches anything else, the results differ.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import fx

from paretune.prune._couplings.couplings import Couplings, Masking, arguments
from paretune.prune._couplings.operators import operator_of
from paretune.prune._surgery.surgery import Keep, kept


class Masked(fx.Interpreter):
    """Runs the module that `runnable` made, at the captured batch, with removed channels masked.

    evaluation: the captured graph of eval mode that it was made from.
    """

    def __init__(self, graph: fx.GraphModule, evaluation: fx.Graph, state: Couplings, keep: Keep) -> None:
        super().__init__(graph)
        self._masks: dict[str, list[tuple[Masking, torch.Tensor]]] = defaultdict(list)
        for masking in state.maskings:
            if masking.node.graph is not evaluation:
                continue
            places = kept(keep, masking.units)
            if not places.all():
                self._masks[masking.node.name].append((masking, torch.from_numpy(~places)))

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; where it reads channels, on masked arguments or with statistics of its own."""
        masks = self._masks.get(n.name, [])
        zeroed: dict[str, torch.Tensor] = {}
        for masking, gone in (pair for pair in masks if not pair[0].statistic):
            name = masking.argument.name
            value = zeroed[name] if name in zeroed else self.env[self._node(n, name)]
            zeroed[name] = _filled(value, masking.axis, gone, 0.0)
        saved = {self._node(n, name): value for name, value in zeroed.items()}
        before = {node: self.env[node] for node in saved}
        self.env.update(saved)
        statistics = [pair for pair in masks if pair[0].statistic]
        try:
            return self._statistic(n, statistics) if statistics else super().run_node(n)
        finally:
            self.env.update(before)

    @staticmethod
    def _node(n: fx.Node, name: str) -> fx.Node:
        return next(node for node in n.all_input_nodes if node.name == name)

    def _statistic(self, n: fx.Node, masks: list[tuple[Masking, torch.Tensor]]) -> Any:
        given = {key: fx.node.map_arg(value, lambda node: self.env[node]) for key, value in arguments(n).items()}
        x = next(iter(given.values()))
        gone = torch.zeros([1] * x.dim(), dtype=torch.bool, device=x.device)
        for masking, places in masks:
            shape = [1] * x.dim()
            shape[masking.axis] = -1
            gone = gone | places.to(x.device).reshape(shape)
        return _STATISTICS[operator_of(n)](x, gone, given)


def _filled(value: torch.Tensor, axis: int, gone: torch.Tensor, filling: float) -> torch.Tensor:
    """Return a copy with the positions in `gone`, (length,) or (blocks of axis 0, length), filled."""
    gone = gone.to(value.device)
    if gone.dim() == 1:
        return value.index_fill(axis, gone.nonzero()[:, 0], filling)
    parts = zip(value.chunk(len(gone)), gone, strict=True)
    return torch.cat([part.index_fill(axis, row.nonzero()[:, 0], filling) for part, row in parts])


def _mean(x: torch.Tensor, gone: torch.Tensor, dims: list[int]) -> torch.Tensor:
    stays = (~gone).expand_as(x)
    return x.masked_fill(gone, 0).sum(dims, keepdim=True) / stays.sum(dims, keepdim=True)


def _normalised(
    x: torch.Tensor, gone: torch.Tensor, dims: list[int], epsilon: float, *, centre: bool
) -> torch.Tensor:
    """Normalise by the statistics of what stays; what goes by those of all, as it did.

    By the others' statistics it could grow from block to block without bound, to infinity in a deep gated network.
    """

    def by(of: torch.Tensor) -> torch.Tensor:
        centred = x - _mean(x, of, dims) if centre else x
        return centred * torch.rsqrt(_mean(centred.square(), of, dims) + epsilon)

    return torch.where(gone, by(torch.zeros_like(gone)), by(gone))


def _layer_norm(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    dims = list(range(x.dim() - len(given["normalized_shape"]), x.dim()))
    epsilon = given["eps"] if given["eps"] is not None else torch.finfo(x.dtype).eps
    out = _normalised(
        x, gone, dims, epsilon, centre="cudnn_enable" in given
    )  # layer norm has it, RMS norm has not
    out = out if given.get("weight") is None else out * given["weight"]
    return out if given.get("bias") is None else out + given["bias"]


def _group_norm(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    grouped = x.reshape(x.shape[0], given["num_groups"], -1)
    out = _normalised(
        grouped, gone.expand(1, *x.shape[1:]).reshape(1, *grouped.shape[1:]), [2], given["eps"], centre=True
    )
    out = out.reshape(x.shape)
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if given.get(name) is not None:
            out = combine(out, given[name].reshape(1, -1, *[1] * (x.dim() - 2)))
    return out


def _softmax(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    masked: torch.Tensor = torch.softmax(x.masked_fill(gone, -torch.inf), given["dim"], dtype=given.get("dtype"))
    return masked


def _topk(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> Any:
    return torch.topk(x.masked_fill(gone, -torch.inf), given["k"], given["dim"], given["largest"], given["sorted"])


def _moment(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    dims = _dims(x, given)
    out = _mean(x, gone, dims)
    return out if given.get("keepdim") else out.squeeze(dims)


def _sum(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    return x.masked_fill(gone, 0).sum(_dims(x, given), keepdim=given.get("keepdim", False))


def _extreme(which: str, filling: float) -> Any:
    """Return how amax or amin (or max or min, whose positions nobody uses) is taken over what stays."""

    def reduced(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> Any:
        x = x.masked_fill(gone, filling if x.is_floating_point() else _limit(x.dtype, filling))
        dims = given.get("dim")
        one = {} if dims is None or dims == [] else {"dim": dims, "keepdim": given.get("keepdim", False)}
        return getattr(torch, which)(x, **one)

    return reduced


def _limit(dtype: torch.dtype, filling: float) -> int:
    return torch.iinfo(dtype).min if filling < 0 else torch.iinfo(dtype).max


def _spread(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    dims = _dims(x, given)
    count = (~gone).expand_as(x).sum(dims, keepdim=True)
    correction = given.get("correction", 1 if given.get("unbiased", True) else 0)
    correction = 1 if correction is None else correction
    out = _mean((x - _mean(x, gone, dims)).square(), gone, dims) * count / (count - correction)
    return out if given.get("keepdim") else out.squeeze(dims)


def _norm(x: torch.Tensor, gone: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    power = given.get("ord", given.get("p", 2))
    norm: torch.Tensor = torch.linalg.vector_norm(
        x.masked_fill(gone, 0), 2 if power is None else power, given["dim"], given["keepdim"]
    )
    return norm


def _dims(x: torch.Tensor, given: dict[str, Any]) -> list[int]:
    dims = given.get("dim")
    return list(range(x.dim())) if dims is None or dims == [] else list(dims)


_STATISTICS: dict[str, Any] = {
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "group_norm": _group_norm,
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    "topk": _topk,
    "sum": _sum,
    "mean": _moment,
    "max": _extreme("max", -torch.inf),
    "min": _extreme("min", torch.inf),
    "amax": _extreme("amax", -torch.inf),
    "amin": _extreme("amin", torch.inf),
    "var": _spread,
    "std": lambda x, gone, given: _spread(x, gone, given).sqrt(),
    "var_mean": lambda x, gone, given: (_spread(x, gone, given), _moment(x, gone, given)),
    "std_mean": lambda x, gone, given: (_spread(x, gone, given).sqrt(), _moment(x, gone, given)),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm),
}
