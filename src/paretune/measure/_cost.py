"""What a model costs on paper: multiply-accumulates of one sample, and parameters.

Counted while the model runs, by the operators it dispatches to, so that functions, tied weights and branches
count as they are used. MACs are no latency: nothing in paretune is chosen on them alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paretune.data import call, map_tensors, tensors_of

if TYPE_CHECKING:
    from torch import nn


def macs(model: nn.Module, example: Any) -> int:
    """Return the multiply-accumulates of one sample: convolutions, matrix products, attention, recurrent layers.

    example: an input as the model takes it, of any batch; only its first sample is run (dimension 0 of every
    tensor whose dimension 0 is the first one's). A model with a fixed batch is run as given, and divided by it.
    Additions, norms and activations are not counted. The model is run in eval mode and left as it was.
    """
    return macs_by_module(model, example)[""]


def macs_by_module(model: nn.Module, example: Any) -> dict[str, int]:
    """Return the multiply-accumulates of one sample by module name, the whole model's under ``""``; see `macs`.

    A module holds what its children cost; one that is called twice counts twice.
    """
    import torch

    tensors = tensors_of(example)
    batch = tensors[0].shape[0] if tensors and tensors[0].ndim else 1
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            if batch > 1:
                with contextlib.suppress(RuntimeError, ValueError):
                    return _count(model, _first_sample(example, batch))
            return {name: round(count / batch) for name, count in _count(model, example).items()}
    finally:
        for module, training in modes.items():
            module.training = training


def parameters(model: nn.Module) -> int:
    """Return the number of parameters; a tied one counts once.

    >>> import torch
    >>> parameters(torch.nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def _first_sample(example: Any, batch: int) -> Any:
    return map_tensors(lambda tensor: tensor[:1] if tensor.ndim and tensor.shape[0] == batch else tensor, example)


def _count(model: nn.Module, example: Any) -> dict[str, int]:
    """Run the model once; return half of the operations counted, for a multiply-accumulate is two of them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=_more_operators())
    with counter, sdpa_kernel(SDPBackend.MATH), without_fused_layers():
        call(model, example)
    whole = type(model).__name__  # the counter calls modules by their path from the model's class
    by_module = {
        name.removeprefix(whole + "."): sum(counts.values()) // 2
        for name, counts in counter.get_flop_counts().items()
        if name not in ("Global", whole)
    }
    return by_module | {"": int(counter.get_total_flops()) // 2}


def _more_operators() -> dict[Any, Any]:
    """Return operators that PyTorch's counter leaves out -> their operations, two per multiply-accumulate."""
    import torch

    def mv(matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
        return int(2 * math.prod(matrix))

    def trilinear(
        left: Any, weight: Any, right: Any, open1: Any, open2: Any, open3: Any, *_: Any, **__: Any
    ) -> int:
        opened = [_unsqueezed(*pair) for pair in ((left, open1), (weight, open2), (right, open3))]
        return int(2 * math.prod(max(sizes) for sizes in zip(*opened, strict=True)))

    aten = torch.ops.aten
    return {aten.mv: mv, aten.dot: mv, aten._trilinear: trilinear}


def _unsqueezed(shape: Any, axes: Any) -> list[int]:
    opened = list(shape)
    for axis in sorted(axes):
        opened.insert(axis, 1)
    return opened


@contextlib.contextmanager
def without_fused_layers() -> Iterator[None]:
    """Keep PyTorch from fusing transformer and recurrent layers into operators that nothing can count."""
    import torch

    onednn: Any = torch.backends.mkldnn
    before = torch.backends.mha.get_fastpath_enabled(), onednn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    onednn.enabled = False
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before[0])
        onednn.enabled = before[1]
