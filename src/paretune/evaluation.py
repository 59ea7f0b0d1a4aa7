"""Evaluate anything that maps inputs to outputs, a module or a file, on a split of the data, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.data import tensors_of
from paretune.errors import DataError, RunError, TaskError
from paretune.measurement import Evaluation
from paretune.metrics import Metric, main_output
from paretune.statistics import metric_interval

if TYPE_CHECKING:
    from paretune.data import Data


def evaluate(
    run: Callable[[Any], Any],
    data: Data,
    metric: Metric,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Run `run(inputs) -> output` over the data in stored order and return the metric with its 95 % interval.

    limit: at most so many samples, the first ones, so that two evaluations are on the same samples.
    """
    import torch

    rows, classes = [], []
    with torch.no_grad():  # not inference_mode: what a module caches here it may need with gradient later
        for inputs, target in data.batches(batch_size=batch_size, limit=limit):
            if target is None:
                raise TaskError(f"task.{data.name} yields no target, and {metric.name} needs one")
            output = run(inputs)
            _refuse_nan(output, inputs, data.name)
            try:
                rows.append(metric.rows(output, target).cpu().numpy())
            except (RuntimeError, IndexError) as error:
                raise TaskError(
                    f"task.metric '{metric.name}' failed on a batch of task.{data.name}: {error}"
                ) from error
            classes.append(_classes(output, target, metric))
    table = np.concatenate(rows).astype(np.float32)
    value = _value(metric, table, data.name)
    low, high = metric_interval(metric, table)
    evaluation = Evaluation(metric=metric, rows=table, value=value, low=low, high=high)
    if any(part is None for part in classes):
        return evaluation
    predicted, right, confidence = (np.concatenate(part) for part in zip(*classes, strict=True))
    return Evaluation(
        metric=metric,
        rows=table,
        value=evaluation.value,
        low=low,
        high=high,
        predicted=predicted,
        target=right,
        confidence=confidence,
    )


def _value(metric: Metric, table: np.ndarray, split: str) -> float:
    """Return the metric over all samples; whatever a user's own function raises is told as theirs."""
    try:
        return metric.value(table)
    except Exception as error:
        raise TaskError(
            f"task.metric '{metric.name}' failed on the outputs and targets of task.{split}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _refuse_nan(output: Any, inputs: Any, split: str) -> None:
    """Raise an error where the first output has NaN: a metric would rank it as if it meant something."""
    import torch

    seen = main_output(output)
    if not isinstance(seen, torch.Tensor) or not seen.is_floating_point() or not bool(seen.isnan().any()):
        return
    samples = int(seen.flatten(1).isnan().any(dim=1).sum()) if seen.ndim > 1 else int(seen.isnan().sum())
    told = f"{samples} of {len(seen)} outputs on a batch of task.{split} are NaN"
    if any(t.is_floating_point() and bool(t.isnan().any()) for t in tensors_of(inputs)):
        raise DataError(f"{told}, and so are some of its inputs: replace or leave out the samples with NaN")
    raise RunError(f"{told}: the weights have diverged or a scale is out of range; train with a smaller lr")


def _classes(output: Any, target: Any, metric: Metric) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return (predicted, right, confidence) where this is classification of whole samples, else None."""
    import torch

    logits = main_output(output)
    if not isinstance(target, torch.Tensor) or target.ndim != 1 or target.is_floating_point() or logits.ndim != 2:
        return None
    if logits.shape[1] == 1:
        if not metric.fraction:  # a regression on whole numbers
            return None
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # the sign of a single logit is the class
    confidence, predicted = logits.float().softmax(dim=1).max(dim=1)
    return predicted.cpu().numpy(), target.cpu().numpy(), confidence.cpu().numpy()
