"""Evidence: what a score asks for, collected for every part of the model in one pass over the data.

A score names its arguments, and each name is one thing that can be known of a layer that makes channels, of one
that reads them, or of a norm between them:

| name | shape | is |
|---|---|---|
| `weight` | (units, other, *kernel) | what makes the channels; beside evidence of a reader, the reader's |
| `grad` | like `weight` | gradient of the loss, the mean over all samples |
| `hessian_grad` | like `weight` | Hessian of that loss times that gradient |
| `flow_grad` | like `weight` | gradient of the logarithm of the flow, see `synflow` |
| `output` | (samples, units, *positions) | what the layer gives, before any activation |
| `output_grad` | like `output` | gradient of the loss, the mean over these samples |
| `activation` | (samples, units, *positions) | what the next layer reads |
| `input_norm` | (units, 1, *kernel) | root mean square over samples of the norm of what each weight multiplies |
| `hessian` | (units * kernel,) twice | second moment of what the reading weights multiply, mean over samples |
| `inverse_diagonal` | (units, 1, *kernel) | diagonal of the inverse of the damped `hessian` |
| `bn_weight` | (units,) | the scale of a norm |

The data are streamed: sums are kept, activations are not. Of a score of samples (`output`, `output_grad`,
`activation`) the value over all data is the mean of its values for the batches, weighted by their samples. Where
the loss is a mean over samples, this is exact for sums over samples of gradients and for means of activations.

The captured graph is run (`Analysis.graph`), in eval mode as it was captured, on tensors that share the storage of
the parameters: the model, its gradients, its buffers and its mode are not touched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretune.errors import InputError, RunError, nearest
from paretune.prune._capture.given import unchanged
from paretune.prune._couplings.parts import Part
from paretune.prune._evidence.collect import Collector
from paretune.task import LOSSES, Task

if TYPE_CHECKING:
    from paretune.prune._analysis import Analysis

Score = Callable[..., Tensor]

OF_MAKERS = ("weight", "grad", "hessian_grad", "flow_grad", "output", "output_grad")
OF_READERS = ("activation", "input_norm", "hessian", "inverse_diagonal")
OF_NORMS = ("bn_weight",)
EVIDENCE = (*OF_MAKERS, *OF_READERS, *OF_NORMS)
OF_SAMPLES = ("output", "output_grad", "activation")
AT_HAND = ("weight", "bn_weight")
NEED_LOSS = ("grad", "hessian_grad", "output_grad")
NEED_DATA = (*NEED_LOSS, "output", *OF_READERS)
SIDES = {"output": ("output", "output_grad"), "weight": ("weight", "grad")}
"""What a score with an argument `of` takes: what it names with the default None belongs to one of the sides."""


def needs(score: Score) -> tuple[str, ...]:
    """Return the evidence that a score names; a name that is no evidence is an InputError.

    Arguments with a default are the score's own options, save those that `of` chooses between.
    """
    parameters = inspect.signature(score).parameters
    required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty]
    if "of" in parameters:
        of = parameters["of"].default
        if of not in SIDES:
            raise InputError(
                f"score '{name_of(score)}': of='{of}' must be one of {', '.join(SIDES)}.{nearest(str(of), SIDES)}"
            )
        side = SIDES[of]
        required += [n for n in side if n in parameters and parameters[n].default is None]
    for name in required:
        if name not in EVIDENCE:
            raise InputError(
                f"score '{name_of(score)}': it asks for {name}; a score is given {', '.join(EVIDENCE)} by name."
                f"{nearest(name, EVIDENCE)}"
            )
    return tuple(required)


def role(score: Score) -> str:
    """Return what a score is about: the layer that `makes` a channel, one that `reads` it, or one of the `norms`.

    Evidence that cannot be had together is an InputError.
    """
    names = needs(score)
    for about, known in (("norms", OF_NORMS), ("reads", ("weight", *OF_READERS)), ("makes", OF_MAKERS)):
        if about == "makes" or any(name in known and name != "weight" for name in names):
            break
    foreign = [name for name in names if name not in known]
    if foreign:
        raise InputError(
            f"score '{name_of(score)}' asks for {', '.join(names)}, which is not all of one layer: evidence is of "
            f"the layer that makes a channel ({', '.join(OF_MAKERS)}), of one that reads it (weight, "
            f"{', '.join(OF_READERS)}), or of a norm ({', '.join(OF_NORMS)})"
        )
    sampled = [name for name in names if name in OF_SAMPLES]
    summed = [name for name in names if name not in (*OF_SAMPLES, *AT_HAND)]
    if sampled and summed:
        raise InputError(
            f"score '{name_of(score)}' asks for {', '.join(sampled)}, which comes batch by batch, and for "
            f"{', '.join(summed)}, which is known after the last batch; name one of the two kinds"
        )
    return about


def name_of(score: Score) -> str:
    """Return the name under which a score stands in messages."""
    return str(getattr(score, "__name__", None) or getattr(getattr(score, "func", score), "__name__", score))


def evaluate(
    analysis: Analysis,
    parts: Sequence[Part],
    score: Score,
    *,
    data: Any = None,
    loss: Any = None,
    samples: int | None = None,
    seed: int = 0,
) -> list[NDArray[np.float64] | None]:
    """Score the units of every part: (n,) each, None where a part has no such evidence.

    data: what a Task takes as `train`, or an iterable of batches. loss: as a Task takes it.
    samples: at most so many, drawn by the seed; all of them where it is None.
    Missing data or a missing loss is an InputError that says what to pass.
    """
    names = needs(score)
    _check(score, names, data, loss)
    collector = Collector(analysis, parts, names, lambda part, evidence: _value(score, part, evidence))
    with unchanged(analysis.model):
        if "flow_grad" in names:
            collector.flow()
        if any(name in NEED_DATA for name in names):
            graded = any(name in NEED_LOSS for name in names)
            criterion = Task(model=analysis.model, loss=loss).criterion() if graded else None
            collector.run(data, criterion, samples, seed)
        return collector.values()


def _check(score: Score, names: Sequence[str], data: Any, loss: Any) -> None:
    wanted = [name for name in names if name in NEED_DATA]
    missing = []
    if wanted and data is None:
        missing.append("data (what a Task takes as train: a DataLoader, a Dataset, or arrays (inputs, target))")
    if loss is None and any(name in NEED_LOSS for name in wanted):
        missing.append(f"loss (one of {', '.join(LOSSES)}, or a function (output, target) -> scalar tensor)")
    if missing:
        raise InputError(
            f"prune.channels: score '{name_of(score)}' needs {', '.join(wanted)}, which is collected over data; "
            f"pass {' and '.join(missing)}. A score of `weight` alone, such as l1, needs neither"
        )


def _value(score: Score, part: Part, evidence: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Call a score, and check what it gives."""
    units, each = part.positions.shape
    with torch.no_grad():
        if "bn_weight" in evidence:  # one number a position, whatever they make up together
            rows = {name: tensor.flatten() for name, tensor in evidence.items()}
            scores = score(**rows).reshape(units, each).mean(dim=1)
        else:
            scores = score(**evidence)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (units,):
        given = str(tuple(scores.shape)) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise InputError(
            f"score '{name_of(score)}' gave {given} for {units} units of {part.slice.tensor}; "
            f"it must give one number for each: ({units},). paretune.testing.check_score says which rule it breaks"
        )
    if not bool(torch.isfinite(scores).all()):
        raise RunError(
            f"score '{name_of(score)}' is not finite for {part.slice.tensor}: look for NaN in the weights and "
            "the data"
        )
    return scores.detach().cpu().double().numpy()
