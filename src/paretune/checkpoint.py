"""Tensors with plain JSON in one safetensors file, written atomically, and refused when a bit is wrong.

The format of every checkpoint: of a finished step (`State`), and of an epoch under way. The header holds the
JSON and a SHA-256 over names, types, shapes and bytes, so that truncation and flipped bits are both seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.cuts import Cuts, replay
from paretune.errors import InputError
from paretune.files import write_atomic

if TYPE_CHECKING:
    import torch
    from torch import nn

    from paretune.task import Task


class CorruptCheckpoint(InputError):
    """A checkpoint that cannot be read, or whose content does not match its digest."""


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], content: Mapping[str, Any]) -> None:
    """Write tensors and JSON values to one file, atomically. Tied tensors are written once per name."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(content)
    metadata = {"paretune": text, "sha256": digest(plain, text)}
    write_atomic(path, lambda temporary: save_file(plain, str(temporary), metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return (tensors, JSON values) of a file; a damaged one is a CorruptCheckpoint that names it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        content: dict[str, Any] = json.loads(metadata["paretune"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CorruptCheckpoint(f"checkpoint {path} cannot be read ({error})") from error
    if digest(tensors, metadata["paretune"]) != metadata.get("sha256"):
        raise CorruptCheckpoint(f"checkpoint {path} is damaged: its content does not match its SHA-256")
    return tensors, content


def digest(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """Return the SHA-256 over text, and over names, types, shapes and bytes of tensors in the order of names."""
    import torch

    hasher = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return hasher.hexdigest()


@dataclass(frozen=True)
class State:
    """A model between two steps: its weights, and the cuts that rebuild its shape from the user's factory."""

    tensors: dict[str, torch.Tensor]
    """The state dict; for an exported graph, its bytes as the one uint8 tensor `graph`."""
    cuts: tuple[Cuts, ...] = ()
    """Every surgery since the factory, in order."""
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """What the step took when it was computed."""

    def save(self, path: Path, key: str = "") -> None:
        """Write the state, with the hash of everything it was made from."""
        content = {
            "key": key,
            "cuts": [cuts.to_json() for cuts in self.cuts],
            "notes": list(self.notes),
            "details": self.details,
            "seconds": self.seconds,
        }
        write_tensors(path, self.tensors, content)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a state; a damaged file is a CorruptCheckpoint."""
        tensors, content = read_tensors(path)
        try:
            cuts = tuple(Cuts.from_json(manifest) for manifest in content["cuts"])
            return cls(tensors, cuts, tuple(content["notes"]), content["details"], content["seconds"])
        except (KeyError, TypeError) as error:
            raise CorruptCheckpoint(f"checkpoint {path} lacks {error}") from error

    def onto(self, model: nn.Module) -> nn.Module:
        """Replay the cuts on a fresh model of the user's factory and load the weights into it."""
        for cuts in self.cuts:
            model = replay(model, cuts)
        tensors = OrderedDict(self.tensors)
        # versions of modules, which torch's own files hold: MNASNet refuses weights without
        tensors._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
        model.load_state_dict(tensors)
        return model


def load_model(path: str | Path, task: Task) -> nn.Module:
    """Return the model of a checkpoint, or of the last checkpoint of a saved candidate's folder.

    path: a `.safetensors` that a run wrote, or a folder that holds one. The module comes from the task's own
    factory, cut as the manifest says: no pickle, no torch.export. It is in eval mode.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if not found:
            raise InputError(f"no checkpoint (*.safetensors) in {path}; give a saved candidate's folder")
        path = found[-1]
    state, model = State.load(path), task.build()
    try:
        return state.onto(model).eval()
    except RuntimeError as error:  # load_state_dict's, which lists every name that does not fit
        raise InputError(
            f"checkpoint {path} does not fit the model that the task makes; give the task it was trained with: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
