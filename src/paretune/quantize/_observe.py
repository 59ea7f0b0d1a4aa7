"""One pass over the calibration data: a streaming histogram of every value that needs a range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx

from paretune.errors import DataError, InputError, RunError
from paretune.export import session
from paretune.quantize.calibration._histogram import Histogram


def observe(
    model: onnx.ModelProto, names: Sequence[str], batches: Iterable[dict[str, np.ndarray]]
) -> dict[str, Histogram]:
    """Run the float graph on every batch and return the histogram of each named value.

    NaN and infinity are errors that say where they came from: the data, or the graph itself.
    """
    histograms = {name: Histogram() for name in names}
    fed = {value.name for value in model.graph.input}
    computed = [name for name in names if name not in fed]
    runner = session(model.SerializeToString(), outputs=computed) if computed else None
    for index, feeds in enumerate(batches):
        _check_finite(feeds, index)
        values = dict(feeds)
        if runner is not None:
            values |= zip(computed, map(np.asarray, runner.run(computed, feeds)), strict=True)
        for name in names:
            try:
                histograms[name].add(values[name])
            except InputError as error:
                raise RunError(
                    f"quantize.static: the float graph makes NaN or infinite values at '{name}' in calibration "
                    f"batch {index}, though its inputs are finite; train or repair the model before quantizing it"
                ) from error
    if all(histogram.total == 0 for histogram in histograms.values()):
        raise DataError("quantize.static: calibration needs at least one sample and got none; give it a batch")
    return histograms


def _check_finite(feeds: dict[str, np.ndarray], index: int) -> None:
    for name, values in feeds.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise DataError(
                f"quantize.static: calibration batch {index} holds NaN or infinite values in input '{name}'; "
                "clean the data, for one such sample would stretch every range"
            )
