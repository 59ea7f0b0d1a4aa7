"""The user's data as batches in an order that a seed fixes.

Whatever is brought, a `DataLoader`, a `Dataset` or a tuple of arrays, becomes a `Data` that yields
`(inputs, target)`. The order of epoch `e` is a permutation drawn from (seed, e), and before each batch the
global random generators are seeded from (seed, e, batch), so that random transforms inside a dataset come out
the same however often a run was killed and resumed: to resume is to jump to an index, nothing is replayed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.errors import DataError, ParetuneError, TaskError

if TYPE_CHECKING:
    import torch

Inputs = Any
"""What the model is called with: a tensor, a tuple of tensors, or a dict of keyword tensors."""
Batch = tuple[Inputs, Any]
TARGET_KEYS = ("labels", "label", "target", "targets", "y")


class Data:
    """One split of a task: its length in samples, its batches, and a fingerprint of its content."""

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int = 64,
        split: Callable[[Any], Batch] | None = None,
        name: str = "data",
    ) -> None:
        """Wrap `source`; `split` turns one batch of it into (inputs, target) where the usual forms do not."""
        self.name = name
        self._split: Callable[[Any], Batch] = split or (source._split if isinstance(source, Data) else split_batch)
        if batch_size < 1:
            raise DataError(f"task.{name}: batch_size={batch_size} must be at least 1")
        self._fetch, self._count, self.batch_size = _reader(source, batch_size, name)
        self._source = source
        self._fingerprint: str | None = None
        if self._count == 0:
            raise DataError(f"task.{name} yields nothing: it has 0 samples; give it at least one batch")

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def steps(self, batch_size: int | None = None) -> int:
        """Return the number of batches of one pass."""
        return -(-self._count // (batch_size or self.batch_size))

    def batches(
        self,
        *,
        batch_size: int | None = None,
        shuffle: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """Yield one pass of (inputs, target), in stored order or shuffled by (seed, epoch).

        limit: at most so many samples (the last batch is cut to fit).
        """
        size = batch_size or self.batch_size
        order = _order(self._count, shuffle)[:limit]
        for start in range(0, len(order), size):
            if shuffle is not None:
                _seed_everything(*shuffle, start // size)
            yield self._checked(self._read(order[start : start + size]))

    def first(self, samples: int) -> Batch:
        """Return the first `samples` samples (fewer if there are fewer) as one batch."""
        return next(self.batches(batch_size=samples, limit=samples))

    def fingerprint(self) -> str:
        """Return a SHA-256 over every sample, in stored order; a dataset's own `fingerprint()` is believed.

        Random transforms are fixed by seeding before each batch, so equal data give equal fingerprints.
        """
        if self._fingerprint is None:
            own = getattr(getattr(self._source, "dataset", self._source), "fingerprint", None)
            self._fingerprint = str(own()) if callable(own) else self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        digest = hashlib.sha256()
        with kept_random_state():
            for start in range(0, self._count, 256):
                _seed_everything(0, 0, start)
                _update(digest, self._read(np.arange(start, min(start + 256, self._count))))
        return digest.hexdigest()

    def _read(self, order: np.ndarray) -> Any:
        try:
            return self._fetch(order)
        except (ParetuneError, MemoryError):
            raise
        except Exception as error:
            which = ", ".join(map(str, order[:3])) + (", ..." if len(order) > 3 else "")
            reason = (str(error).strip() or "no message").splitlines()[0][:300]
            raise DataError(
                f"task.{self.name}: reading samples {which} failed: {type(error).__name__}: {reason}"
            ) from error

    def _checked(self, raw: Any) -> Batch:
        try:
            return self._split(raw)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise TaskError(
                f"task.{self.name}: a batch of type {type(raw).__name__} could not be split into inputs and "
                f"target ({error}); yield (inputs, target), or pass Task(split=...)"
            ) from error


def split_batch(batch: Any) -> Batch:
    """Split a batch as loaders yield it: (inputs, target), (a, b, target), or a dict with labels.

    A dict is split at the first of the keys labels, label, target, targets, y; a bare tensor has no target.
    """
    if isinstance(batch, Mapping):
        key = next((key for key in TARGET_KEYS if key in batch), None)
        if key is None:
            raise KeyError(f"no key of {', '.join(TARGET_KEYS)} among {', '.join(map(str, batch))}")
        return {name: value for name, value in batch.items() if name != key}, batch[key]
    if isinstance(batch, list | tuple):
        if len(batch) == 1:
            return batch[0], None
        *inputs, target = batch
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), target
    return batch, None


def call(model: Any, inputs: Inputs) -> Any:
    """Call a model with a tensor, with a tuple as positional, or with a dict as keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, list | tuple):
        return model(*inputs)
    return model(inputs)


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Apply `function` to every tensor in nested tuples, lists, dicts and dataclasses; other values stay."""
    import torch

    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{n: map_tensors(function, getattr(value, n)) for n in names})
    return value


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Return every tensor in nested tuples, lists, dicts and dataclasses, in order."""
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(keep, value)
    return found


def shapes_of(value: Any) -> str:
    """Return the shapes and types of every tensor in a value, in words; the value's own type where it has none."""
    found = [f"{tuple(t.shape)} {t.dtype}".replace("torch.", "") for t in tensors_of(value)]
    return ", ".join(found) or type(value).__name__


def as_device(value: Any, device: str) -> Any:
    """Move every tensor of a nested value to a device."""
    return map_tensors(lambda tensor: tensor.to(device), value)


def _reader(source: Any, batch_size: int, name: str) -> tuple[Callable[[np.ndarray], Any], int, int]:
    """Return (indices -> raw batch, number of samples, batch size) for any form of source."""
    import torch
    from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

    if isinstance(source, Data):
        return source._fetch, len(source), source.batch_size
    collate: Callable[[Any], Any] = default_collate
    if isinstance(source, DataLoader):
        collate = source.collate_fn
        batch_size = source.batch_size or batch_size
        source = _dataset(source, name)
    if isinstance(source, IterableDataset) or (
        not isinstance(source, Dataset) and hasattr(source, "__iter__") and not hasattr(source, "__getitem__")
    ):
        raise DataError(
            f"task.{name}: a stream (IterableDataset or generator) has no fixed order to resume from; "
            "give a Dataset with __len__ and __getitem__, a DataLoader over one, or arrays"
        )
    if isinstance(source, TensorDataset) and collate is default_collate:
        source = source.tensors
    if isinstance(source, np.ndarray | torch.Tensor) or (isinstance(source, Mapping) and _is_arrays(source)):
        source = (source,)
    arrays = isinstance(source, tuple) or (  # a list of tuples or dicts holds samples, as a Dataset does
        isinstance(source, list) and not any(isinstance(part, tuple | Mapping) for part in source)
    )
    if arrays and source and all(_is_arrays(part) for part in source):
        return _array_reader(source, name), _array_length(source, name), batch_size
    if isinstance(source, tuple) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        kind = f"({', '.join(type(part).__name__ for part in source)})" if isinstance(source, tuple) else ""
        raise DataError(
            f"task.{name}: cannot read data from {kind or type(source).__name__}; give a DataLoader, a Dataset, "
            "or a tuple of arrays (inputs, target)"
        )
    return lambda order: collate([source[int(i)] for i in order]), len(source), batch_size


def _dataset(loader: Any, name: str) -> Any:
    """Return the samples that a DataLoader draws from; one whose sampler cannot be replayed is a DataError.

    To pass over a sampler in silence would train on samples that were held out by it.
    """
    from torch.utils import data

    if isinstance(loader.dataset, data.IterableDataset):
        return loader.dataset
    if loader.batch_sampler is None:
        raise DataError(
            f"task.{name}: the loader has batch_size=None, that is, its dataset makes the batches; "
            "give a Dataset of single samples, or a DataLoader with a batch_size"
        )
    if isinstance(loader.sampler, data.SubsetRandomSampler):
        return data.Subset(loader.dataset, [int(i) for i in loader.sampler.indices])
    sampler = loader.sampler
    if type(loader.batch_sampler) is not data.BatchSampler:
        sampler = loader.batch_sampler
    plain = type(sampler) is data.SequentialSampler or (
        type(sampler) is data.RandomSampler and not sampler.replacement and len(sampler) == len(loader.dataset)
    )
    if not plain:
        raise DataError(
            f"task.{name}: the loader's {type(sampler).__name__} decides what is seen, and its order cannot be "
            "resumed from; give a Dataset of just these samples, for example torch.utils.data.Subset"
        )
    return loader.dataset


def _is_arrays(part: Any) -> bool:
    import torch

    if isinstance(part, Mapping):
        return all(_is_arrays(item) for item in part.values())
    if isinstance(part, tuple):
        return all(_is_arrays(item) for item in part)
    return isinstance(part, np.ndarray | torch.Tensor)


def _array_reader(source: Sequence[Any], name: str) -> Callable[[np.ndarray], Any]:
    import torch

    tensors = [_to_tensor(part) for part in source]

    def fetch(order: np.ndarray) -> Any:
        index = torch.from_numpy(np.ascontiguousarray(order))
        batch = [map_tensors(lambda tensor: tensor.index_select(0, index), part) for part in tensors]
        return batch[0] if len(batch) == 1 else tuple(batch)

    return fetch


def _to_tensor(part: Any) -> Any:
    import torch

    if isinstance(part, Mapping):
        return {key: _to_tensor(item) for key, item in part.items()}
    if isinstance(part, tuple):
        return tuple(_to_tensor(item) for item in part)
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(np.ascontiguousarray(part))
        return part.float() if part.dtype == torch.float64 else part
    return part


def _array_length(source: Sequence[Any], name: str) -> int:
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in tensors_of([_to_tensor(part) for part in source])}
    if len(lengths) > 1:
        raise DataError(
            f"task.{name}: its arrays have unlike lengths {sorted(lengths)}; the first axis counts samples"
        )
    return lengths.pop() if lengths else 0


def _order(count: int, shuffle: tuple[int, int] | None) -> np.ndarray:
    if shuffle is None:
        return np.arange(count)
    return np.random.default_rng(list(shuffle)).permutation(count)


def _seed_everything(seed: int, epoch: int, batch: int) -> None:
    import torch

    drawn = int(np.random.SeedSequence([seed, epoch, batch]).generate_state(1)[0])
    torch.manual_seed(drawn)
    np.random.seed(drawn)
    random.seed(drawn)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the random states of PyTorch (GPUs that are in use too), NumPy and Python as they were."""
    import torch

    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state_all(gpus)
        np.random.set_state(state[1])
        random.setstate(state[2])


def _update(digest: Any, value: Any) -> None:
    """Feed names, shapes, types and bytes of a nested batch to a digest."""
    import torch

    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().contiguous()
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    elif isinstance(value, np.ndarray):  # whose repr leaves out the middle
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(str(key).encode())
            _update(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(str(len(value)).encode())
        for item in value:
            _update(digest, item)
    else:
        digest.update(repr(value).encode())
