"""A `Result`: what a run found, read from its folder, and what can be done with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.errors import InputError
from paretune.summary import front


@dataclass(frozen=True)
class Candidate:
    """A recipe with every choice filled in, and its measurement; its files lie in the run folder."""

    folder: Path
    """The run folder."""
    row: dict[str, Any]
    """Its entry in `summary.json`."""

    @property
    def name(self) -> str:
        """The candidate's name in the run."""
        return str(self.row["name"])

    @property
    def artifact(self) -> Path:
        """The `.onnx` file."""
        return self.folder / str(self.row["artifact"])

    def save(self, out: str | Path) -> Path:
        """Copy what ships and what proves it to `out`; return the `.onnx` there.

        The folder gets the model, its certificate and reference, the recipe that makes it, the measured row, and
        the weights with the manifest of cuts (`paretune.load(out, task)` rebuilds the PyTorch module).
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.artifact.parent.glob(self.artifact.stem + ".*")):
            shutil.copyfile(path, out / path.name)
        if self.row.get("checkpoint"):
            checkpoint = self.folder / self.row["checkpoint"]
            shutil.copyfile(checkpoint, out / f"{self.artifact.stem}.safetensors")
        (out / "candidate.json").write_text(json.dumps(self.row, indent=2) + "\n")
        return out / self.artifact.name

    def __repr__(self) -> str:
        return (
            f"Candidate({self.name!r}, latency {self.row['latency']['ratio']:.3g}x, {self.row['bytes']:,} bytes)"
        )


@dataclass(frozen=True)
class Result:
    """Every candidate that a run measured, and the best that holds the constraints."""

    folder: Path
    summary: dict[str, Any]
    """The content of `summary.json`."""

    @property
    def candidates(self) -> list[Candidate]:
        """All of them, the baseline first."""
        return [Candidate(self.folder, row) for row in self.summary["candidates"]]

    @property
    def best(self) -> Candidate | None:
        """The chosen one, or None where no candidate holds the constraints."""
        return next((c for c in self.candidates if c.name == self.summary["best"]), None)

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other beats in metric, latency and bytes at once."""
        return [Candidate(self.folder, row) for row in front(self.summary["candidates"])]

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one HTML file, and return where; beside the run if no path is given."""
        from paretune.report import write_report

        return Path(write_report(self.folder, Path(path) if path else None))

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """Read the result of a finished run folder."""
        folder = Path(folder)
        try:
            return cls(folder, json.loads((folder / "summary.json").read_text()))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} holds no finished run ({error}); `paretune run --resume {folder}`"
            ) from error
