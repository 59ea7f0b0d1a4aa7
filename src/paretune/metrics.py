"""Metrics that keep what each sample contributed, so that two models can be compared in pairs.

A `Metric` maps a batch to one row of numbers per sample, and rows to the value. The value of any subset or
resample of the samples is then a matter of indexing: intervals, McNemar's test and the paired bootstrap need
no second pass over the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.errors import TaskError, nearest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Metric:
    """What is measured of a model's outputs: rows per sample, and the value of a set of rows."""

    name: str
    rows: Callable[[Any, Any], torch.Tensor]
    """(output, target) of one batch -> (samples, columns) float32."""
    value: Callable[[np.ndarray], float]
    """(samples, columns) -> the metric over those samples."""
    greater_is_better: bool = True
    fraction: bool = False
    """True where the value is correct/total: a fraction of samples, compared in points."""


def resolve(metric: str | Metric | Callable[[Any, Any], Any]) -> Metric:
    """Return the Metric of that name, the one given, or one made of a function (outputs, targets) -> number.

    A function is called on all outputs and targets concatenated; its attribute `greater_is_better` (True if
    absent) says its direction.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in METRICS:
            raise TaskError(
                f"task.metric: no metric '{metric}'.{nearest(metric, METRICS)} "
                f"Give one of {', '.join(METRICS)}, a paretune.Metric, or a function (outputs, targets) -> number"
            )
        return METRICS[metric]
    if callable(metric):
        return _from_function(metric)
    raise TaskError(f"task.metric: cannot use a {type(metric).__name__}; give a name or a function")


def main_output(output: Any) -> torch.Tensor:
    """Return the tensor that names like "accuracy" read: the output, its `logits`, or its only or first tensor.

    A dict's key `logits` (or `output`, `predictions`) comes first; so does an attribute of that name.
    """
    import torch

    from paretune.data import tensors_of

    if isinstance(output, torch.Tensor):
        return output
    for key in ("logits", "output", "predictions"):
        if isinstance(output, Mapping) and key in output:
            return output[key]  # type: ignore[no-any-return]
        if isinstance(getattr(output, key, None), torch.Tensor):
            return getattr(output, key)  # type: ignore[no-any-return]
    tensors = tensors_of(output)
    if not tensors:
        raise TaskError(f"the model's output ({type(output).__name__}) holds no tensor to score")
    return tensors[0]


def _correct(k: int) -> Callable[[Any, Any], torch.Tensor]:
    def rows(output: Any, target: torch.Tensor) -> torch.Tensor:
        logits = main_output(output)
        if is_binary(logits):
            hit = predicted_class(logits) == _labels(predicted_class(logits), target)
        else:
            best = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (samples, k, *positions)
            hit = (best == _labels(best[:, 0], target).unsqueeze(1)).any(dim=1)
        return hit.float().flatten(1).mean(dim=1, keepdim=True) if hit.ndim > 1 else hit.float()[:, None]

    return rows


def is_binary(logits: torch.Tensor) -> bool:
    """Say whether there is one logit per sample: its sign is the class, and there are two."""
    return logits.ndim == 1 or logits.shape[1] == 1


def predicted_class(logits: torch.Tensor) -> torch.Tensor:
    """Return the class of each sample (samples, *positions): the largest logit's, or a single logit's sign."""
    if logits.ndim == 1:
        return (logits > 0).long()
    return (logits[:, 0] > 0).long() if is_binary(logits) else logits.argmax(dim=1)


def _labels(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the target in the shape of the predicted classes; a target that is no class index is a TaskError."""
    if target.numel() != predicted.numel():
        raise TaskError(
            f"task.metric: it needs one class index for each of {tuple(predicted.shape)} predictions, and the "
            f"target is {tuple(target.shape)}; for several labels or soft ones give a function as the metric"
        )
    return target.reshape(predicted.shape)


def _predicted_and_target(output: Any, target: torch.Tensor) -> torch.Tensor:
    import torch

    predicted = predicted_class(main_output(output))
    if predicted.ndim != 1:
        raise TaskError("task.metric 'f1' is for one label per sample; for maps of labels give a function")
    return torch.stack([predicted, _labels(predicted, target)], dim=1).float()


def _macro_f1(rows: np.ndarray) -> float:
    """Return the mean over the classes that occur of 2 TP / (2 TP + FP + FN)."""
    predicted, target = rows[:, 0], rows[:, 1]
    scores = []
    for label in np.union1d(predicted, target):
        hits = float(np.sum((predicted == label) & (target == label)))
        misses = float(np.sum((predicted == label) != (target == label)))
        scores.append(2 * hits / (2 * hits + misses))
    return float(np.mean(scores))


def _squared_error(output: Any, target: torch.Tensor) -> torch.Tensor:
    prediction = main_output(output)
    error = prediction - target.reshape(prediction.shape).to(prediction.dtype)
    return error.float().square().flatten(1).mean(dim=1, keepdim=True)


def _mean(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean(dtype=np.float64))  # in float32, 93 of 100 would be 0.9300000071525574


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", _correct(1), _mean, fraction=True),
    "top5": Metric("top5", _correct(5), _mean, fraction=True),
    "f1": Metric("f1", _predicted_and_target, _macro_f1),
    "mse": Metric("mse", _squared_error, _mean, greater_is_better=False),
    "rmse": Metric("rmse", _squared_error, lambda rows: _mean(rows) ** 0.5, greater_is_better=False),
}


def _from_function(function: Callable[[Any, Any], Any]) -> Metric:
    """Keep outputs and targets as rows, and call the function on the rows asked for."""
    import torch

    shapes: dict[str, Any] = {}

    def rows(output: Any, target: torch.Tensor) -> torch.Tensor:
        tensor = main_output(output)
        shapes["output"], shapes["target"] = tensor.shape[1:], target.shape[1:]
        shapes["type"] = target.dtype
        shapes["columns"] = tensor[0].numel()
        return torch.cat([tensor.float().flatten(1), target.float().reshape(len(target), -1)], dim=1)

    def value(array: np.ndarray) -> float:
        table = torch.from_numpy(np.ascontiguousarray(array))
        outputs = table[:, : shapes["columns"]].reshape(-1, *shapes["output"])
        targets = table[:, shapes["columns"] :].reshape(-1, *shapes["target"]).to(shapes["type"])
        return float(function(outputs, targets))

    name = getattr(function, "__name__", type(function).__name__)
    return Metric(name, rows, value, greater_is_better=bool(getattr(function, "greater_is_better", True)))
