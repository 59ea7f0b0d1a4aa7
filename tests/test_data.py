import itertools
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from paretune.data import Data, as_device, call, map_tensors, split_batch, tensors_of
from paretune.errors import DataError, TaskError

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


class _Noisy(Dataset):
    """A dataset with a random transform, drawn from the global generators."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return X[index] + torch.rand(2) + np.random.rand(), int(Y[index])


def _everything(data, **how):
    batches = list(data.batches(**how))
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([target for _, target in batches])


@pytest.mark.parametrize("source", [
    (X, Y), [X, Y], (X.numpy(), Y.numpy()), (X.numpy().astype(np.float64), Y), TensorDataset(X, Y),
    DataLoader(TensorDataset(X, Y), batch_size=4), DataLoader(Subset(TensorDataset(X, Y), range(10))),
    [(X[i], Y[i]) for i in range(10)], Data((X, Y)),
])  # fmt: skip
def test_every_form_of_source_gives_the_same_samples(source):
    data = Data(source, batch_size=4)
    assert len(data) == 10
    inputs, target = _everything(data)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, X) and torch.equal(target, Y)


def test_a_loader_keeps_its_own_batch_size_and_collate_function():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, collate_fn=lambda rows: ([len(rows)], "target"))
    assert Data(loader, batch_size=2).batch_size == 4
    assert next(Data(loader).batches()) == ([4], "target")


def test_a_subset_samplers_samples_are_the_only_ones_seen():
    # passing over the sampler would train on the samples that it holds out for validation
    loader = DataLoader(TensorDataset(X, Y), sampler=SubsetRandomSampler([1, 4, 7]))
    assert _everything(Data(loader))[1].tolist() == [1, 4, 7]


@pytest.mark.parametrize("how", [
    {"sampler": WeightedRandomSampler([1.0] * 10, 10)}, {"sampler": RandomSampler(Y, replacement=True)},
    {"sampler": RandomSampler(Y, num_samples=3)}, {"batch_sampler": [[0, 1], [2]]},
])  # fmt: skip
def test_a_sampler_that_cannot_be_replayed_is_refused(how):
    with pytest.raises(DataError, match=r"task\.train: the loader's (\w+) decides what is seen.*Subset"):
        Data(DataLoader(TensorDataset(X, Y), **how), name="train")


def test_plain_samplers_are_accepted():
    dataset = TensorDataset(X, Y)
    for how in ({"shuffle": True}, {"batch_sampler": BatchSampler(SequentialSampler(dataset), 3, False)}):
        assert len(Data(DataLoader(dataset, **how))) == 10


def test_dicts_and_bare_arrays():
    data = Data({"image": X.numpy(), "label": Y}, batch_size=4)
    inputs, target = data.first(3)
    assert torch.equal(inputs["image"], X[:3]) and torch.equal(target, Y[:3])
    assert Data(X.numpy().astype(np.float64)).first(2)[0].dtype == torch.float32
    assert Data((X,)).first(2)[1] is None
    assert Data([{"image": X[i], "label": Y[i]} for i in range(10)]).first(2)[1].tolist() == [0, 1]
    nested = Data(({"a": X, "b": (X, X)}, Y)).first(2)[0]
    assert nested["b"][1].shape == (2, 2)


class _Stream(IterableDataset):
    def __iter__(self):
        yield from ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], r"task\.train yields nothing: it has 0 samples"),
        (DataLoader(TensorDataset(X[:0], Y[:0])), r"task\.train yields nothing"),
        (_Stream(), r"task\.train: a stream \(IterableDataset or generator\) has no fixed order"),
        (DataLoader(_Stream()), r"a stream"),
        (iter([1]), r"a stream"),
        (3, r"task\.train: cannot read data from int; give a DataLoader"),
        ((torch.tensor(1.0), torch.tensor(1)), r"task\.train yields nothing"),
        (([[1.0], [2.0]], [0, 1]), r"cannot read data from \(list, list\); give a DataLoader"),
        (DataLoader(TensorDataset(X, Y), batch_size=None), r"the loader has batch_size=None"),
        ((X, Y[:5]), r"task\.train: its arrays have unlike lengths \[5, 10\]"),
    ],
)
def test_what_cannot_be_read_is_said(source, message):
    with pytest.raises(DataError, match=message):
        Data(source, name="train")


def test_batch_size_must_be_at_least_one():
    with pytest.raises(DataError, match=r"task\.train: batch_size=0 must be at least 1"):
        Data((X, Y), batch_size=0, name="train")


def test_a_dataset_that_fails_is_named_with_its_samples():
    class Torn(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            raise OSError("image file is truncated")

    for read in (lambda data: data.first(2), Data.fingerprint):
        with pytest.raises(
            DataError, match=r"task\.val: reading samples 0, 1.* failed: OSError: image file is trunc"
        ):
            read(Data(Torn(), name="val"))


def test_a_batch_that_cannot_be_split_is_said():
    with pytest.raises(TaskError, match=r"task\.val: a batch of type dict could not be split.*Task\(split"):
        Data({"image": X}, name="val").first(1)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_an_epoch_is_a_permutation_fixed_by_seed_and_epoch(count, size, seed, epoch):
    data = Data((torch.arange(count), torch.arange(count)), batch_size=size)
    batches = [target.tolist() for _, target in data.batches(shuffle=(seed, epoch))]
    assert sorted(itertools.chain(*batches)) == list(range(count))
    assert batches == [target.tolist() for _, target in data.batches(shuffle=(seed, epoch))]
    assert len(batches) == data.steps() and all(len(batch) == size for batch in batches[:-1])


def test_orders_differ_between_epochs_and_seeds_and_limit_cuts_the_last_batch():
    data = Data((torch.arange(100), torch.arange(100)), batch_size=8)
    orders = [_everything(data, shuffle=key)[1].tolist() for key in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] and orders[0] != orders[2]
    assert [len(target) for _, target in data.batches(limit=20)] == [8, 8, 4]
    assert _everything(data, shuffle=(0, 0), limit=20)[1].tolist() == orders[0][:20]


def test_random_transforms_depend_on_seed_epoch_and_batch_alone():
    data = Data(_Noisy(), batch_size=4)
    first = [inputs for inputs, _ in data.batches(shuffle=(3, 1))]
    torch.manual_seed(99), np.random.seed(99)
    again = data.batches(shuffle=(3, 1))
    for ours in first:
        theirs, _ = next(again)
        torch.rand(3)  # what a model draws between two batches must not matter
        assert torch.equal(ours, theirs)


def test_a_wrapped_data_keeps_its_split():
    inner = Data((X, Y), split=lambda batch: (batch[0] + 1, batch[1]))
    assert torch.equal(Data(inner).first(2)[0], X[:2] + 1)


class _Arrays(Dataset):
    """Samples that a collate function leaves as NumPy arrays, longer than their repr shows."""

    def __init__(self, changed=None):
        self.rows = np.zeros((4, 5000))
        if changed is not None:
            self.rows[0, changed] = 1

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.rows[index], 0


def test_fingerprint_sees_every_value_type_and_shape():
    def of(*source):
        return Data(source).fingerprint()

    base = of(X, Y)
    assert base == of(X.clone(), Y.clone()) == Data(TensorDataset(X, Y)).fingerprint()
    changed = X.clone()
    changed[9, 1] += 1e-6 * changed[9, 1]
    others = [(changed, Y), (X, Y.flip(0)), (X.reshape(10, 1, 2), Y), (X, Y.int()), (X[:9], Y[:9])]
    assert len({base} | {of(*other) for other in others}) == 6


def test_fingerprint_sees_the_middle_of_numpy_arrays():
    def of(changed):
        collate = lambda rows: (np.stack([row for row, _ in rows]), 0)  # noqa: E731
        return Data(DataLoader(_Arrays(changed), collate_fn=collate)).fingerprint()

    assert of(None) == of(None) != of(2500)


def test_fingerprint_of_random_transforms_is_stable_and_leaves_the_generators_alone():
    torch.manual_seed(5), np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5), np.random.seed(5)
    assert Data(_Noisy()).fingerprint() == Data(_Noisy()).fingerprint()
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_datasets_own_fingerprint_is_believed():
    class Own(_Noisy):
        def fingerprint(self):
            return "mine"

    assert Data(Own()).fingerprint() == Data(DataLoader(Own())).fingerprint() == "mine"


def test_split_batch():
    assert split_batch((1, 2)) == (1, 2)
    assert split_batch([1, 2, 3]) == ((1, 2), 3)
    assert split_batch([1]) == (1, None)
    assert split_batch({"a": 1, "y": 2, "labels": 3}) == ({"a": 1, "y": 2}, 3)
    assert split_batch("tensor") == ("tensor", None)


def test_call_by_form():
    assert call(lambda a: a, 1) == 1
    assert call(lambda a, b: (a, b), (1, 2)) == (1, 2)
    assert call(lambda *, a, b: (a, b), {"b": 2, "a": 1}) == (1, 2)


@dataclass
class _Output:
    logits: torch.Tensor
    name: str = "kept"


def test_tensors_are_found_and_mapped_in_every_nesting():
    Pair = namedtuple("Pair", "a b")
    value = {"x": [X, (Y, None)], "pair": Pair(X, 3), "output": _Output(Y)}
    assert [t is s for t, s in zip(tensors_of(value), [X, Y, X, Y], strict=True)] == [True] * 4
    doubled = map_tensors(lambda tensor: tensor * 2, value)
    assert torch.equal(doubled["x"][1][0], Y * 2) and doubled["x"][1][1] is None
    assert isinstance(doubled["pair"], Pair) and doubled["pair"].b == 3
    assert torch.equal(doubled["output"].logits, Y * 2) and doubled["output"].name == "kept"
    assert as_device(value, "meta")["x"][0].device.type == "meta"
