"""Checkpoints: bit for bit what was saved, or refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from paretune.checkpoint import CorruptCheckpoint, State, digest, load_model, read_tensors, write_tensors
from paretune.cuts import Attribute, Cut, Cuts
from paretune.errors import InputError
from paretune.task import Task


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


CUTS = Cuts(
    shapes={"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4)},
    cuts=(Cut("0.weight", 0, (0, 2)), Cut("0.bias", 0, (0, 2)), Cut("2.weight", 1, (0, 2))),
    attributes=(Attribute("0", "out_features", 4, 2), Attribute("2", "in_features", 4, 2)),
)


def test_what_is_read_is_what_was_written(tmp_path: Path):
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor(5), "c": torch.zeros(0), "d": torch.ones(2).bfloat16()}
    write_tensors(tmp_path / "x.safetensors", tensors, {"epoch": 3, "curve": [0.5]})
    read, content = read_tensors(tmp_path / "x.safetensors")
    assert content == {"epoch": 3, "curve": [0.5]}
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("place", [5, -3])
def test_a_flipped_bit_is_seen(tmp_path: Path, place: int):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.randn(100)}, {})
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptCheckpoint, match=r"x\.safetensors"):
        read_tensors(path)


def test_a_changed_digit_in_the_header_is_seen(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.randn(100)}, {"epoch": 3})
    path.write_bytes(path.read_bytes().replace(b'epoch\\": 3', b'epoch\\": 4'))
    with pytest.raises(CorruptCheckpoint, match="damaged"):
        read_tensors(path)


def test_a_truncated_file_is_seen(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.randn(100)}, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptCheckpoint, match="cannot be read"):
        read_tensors(path)


def test_a_changed_digit_changes_the_digest():
    weight = torch.randn(4)
    other = weight.clone()
    other[2] = torch.nextafter(other[2], torch.tensor(9.0))
    assert digest({"w": weight}) != digest({"w": other})
    assert digest({"w": weight}) != digest({"v": weight})
    assert digest({"w": weight}) != digest({"w": weight.reshape(2, 2)})


def test_a_pruned_model_is_rebuilt_from_the_users_own_factory(tmp_path: Path):
    pruned = State(net().state_dict(), (CUTS,))
    small = {
        "0.weight": torch.randn(2, 3),
        "0.bias": torch.randn(2),
        "2.weight": torch.randn(2, 2),
        "2.bias": torch.randn(2),
    }
    pruned = State(small, (CUTS,), notes=("a note",), details={"kept": 2}, seconds=1.5)
    pruned.save(tmp_path / "m.safetensors", key="abc")
    model = load_model(tmp_path, Task(model=net, example=torch.zeros(1, 3)))
    x = torch.randn(5, 3)
    expected = torch.relu(x @ small["0.weight"].T + small["0.bias"]) @ small["2.weight"].T + small["2.bias"]
    torch.testing.assert_close(model(x), expected)
    assert State.load(tmp_path / "m.safetensors").details == {"kept": 2}


class Versioned(nn.Linear):
    """Refuses weights of no version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_modules_are_told_the_version_of_their_weights(tmp_path: Path):
    model = Versioned(3, 2)
    State(model.state_dict()).save(tmp_path / "a.safetensors")
    again = State.load(tmp_path / "a.safetensors").onto(Versioned(3, 2))
    assert torch.equal(again.weight, model.weight)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="no checkpoint"):
        load_model(tmp_path, Task(model=net))


def test_a_loaded_model_is_in_eval_mode_and_one_that_does_not_fit_is_said(tmp_path: Path):
    State(net().state_dict()).save(tmp_path / "m.safetensors")
    assert not load_model(tmp_path, Task(model=net)).training
    with pytest.raises(InputError, match="does not fit the model that the task makes"):
        load_model(tmp_path, Task(model=lambda: torch.nn.Linear(7, 7)))
