"""The checkpoints of one training: a file per epoch, the last two kept, the newest sound one is resumed from.

`epoch-0000` is written before the first epoch, so that the choice of layout and precision, which comes from a
timing, survives a kill at any moment. A checkpoint of another training (other settings, other starting
weights) in the same folder is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paretune.checkpoint import CorruptCheckpoint, read_tensors, write_tensors
from paretune.train._optimizers import load_state_tensors, state_tensors

KEPT = 2


@dataclass
class Progress:
    """What changes with every epoch, beside weights and optimizer."""

    curve: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    """The best validation metric so far."""
    best_epoch: int = 0
    stopped: bool = False
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read."""

    tensors: dict[str, torch.Tensor]
    content: dict[str, Any]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load weights and optimizer state in place, and return the progress."""
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimizer": {}, "best": {}}
        for path, tensor in self.tensors.items():
            part, _, name = path.partition(":")
            parts[part][name] = tensor
        model.load_state_dict(parts["model"])
        load_state_tensors(optimizer, model, parts["optimizer"])
        numbers = {key: self.content[key] for key in ("curve", "best", "best_epoch", "stopped")}
        return Progress(**numbers, best_weights=parts["best"])


@dataclass(frozen=True)
class Checkpoints:
    """Where a training keeps its epochs, and what marks them as its own."""

    folder: Path | None
    """None keeps nothing."""
    identity: Mapping[str, Any]
    """Plain JSON: settings, seed, digest of the starting weights."""
    warn: Callable[[str], None]

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, how: Mapping[str, Any]
    ) -> None:
        """Write the state after the epochs in `progress`, then remove all but the last two files.

        how: plain JSON on how the training computes. A later epoch's file is a damaged one, or another
        training's, and is removed too.
        """
        if self.folder is None:
            return
        parts = {
            "model": named_tensors(model),
            "optimizer": state_tensors(optimizer, model),
            "best": progress.best_weights,
        }
        content = {key: value for key, value in vars(progress).items() if key != "best_weights"}
        path = self.folder / f"epoch-{len(progress.curve):04}.safetensors"
        write_tensors(
            path,
            {f"{part}:{name}": tensor for part, named in parts.items() for name, tensor in named.items()},
            {**content, "how": dict(how), "identity": dict(self.identity)},
        )
        files = self._files()
        mine = files.index(path)
        for file in files[:mine] + files[mine + KEPT :]:
            file.unlink(missing_ok=True)

    def newest(self) -> Saved | None:
        """Return the newest sound checkpoint of this training, or None.

        A damaged one is skipped with a warning that names it.
        """
        for path in self._files():
            try:
                saved = Saved(*read_tensors(path))
            except CorruptCheckpoint as error:
                self.warn(f"{error}; going on from the one before")
                continue
            if saved.content.get("identity") == self.identity:
                return saved
            self.warn(f"checkpoint {path} is of another training (other settings or weights) and is not used")
        return None

    def last(self) -> str:
        """Return the name of the newest file, empty where there is none."""
        files = self._files()
        return files[0].name if files else ""

    def _files(self) -> list[Path]:
        """Return the checkpoints, newest first."""
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(self.folder.glob("epoch-*.safetensors"), reverse=True)


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict's tensors, detached."""
    return {name: value.detach() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
