"""An `Artifact`: what is shipped, a standard `.onnx`; and its `Certificate`: the proof beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paretune.errors import InputError
from paretune.files import write_json


@dataclass(frozen=True)
class BatchCheck:
    """One comparison at one batch size."""

    batch: int
    error: float
    """Largest |difference| over largest |reference|; for an INT8 file, in steps of the output's grid instead."""
    ok: bool
    diverges_at: str | None = None
    """The first node whose value differs from PyTorch's, or from the INT8 graph as written, where it failed."""
    node_error: float | None = None
    """INT8 files: the largest error of any one node, in steps, each fed with what the kernels computed before it.
    Kernels may round a value between two steps to either side; deep networks add that up to more than one step at
    the output, and then this decides."""


@dataclass(frozen=True)
class Certificate:
    """What was proved of one artifact, in a fresh process, from the file."""

    artifact: str
    """The file's name, beside the certificate."""
    sha256: str
    kind: str
    """`float`: compared with PyTorch; `int8`: compared with its own graph, optimisations off."""
    tolerance: float
    """For `float` relative, for `int8` in steps of the output's grid."""
    batches: tuple[BatchCheck, ...]
    fixed_batch: int | None = None
    """The only batch the model takes, or None where the batch is free."""
    drop_against_float: float | None = None
    """INT8 files: largest |difference| to the float file's outputs over their largest; reported, not tested."""
    metric: dict[str, Any] = field(default_factory=dict)
    """The metric re-measured from the file: name, value, low, high, n, split."""
    versions: dict[str, str] = field(default_factory=dict)
    reference_sha256: str = ""
    """Of `NAME.reference.npz`, so that a file and its reference are not changed together unseen."""

    @property
    def ok(self) -> bool:
        """True where every check passed."""
        return all(check.ok for check in self.batches)

    def save(self, path: Path) -> None:
        """Write the certificate as JSON, atomically."""
        write_json(path, {**asdict(self), "ok": self.ok})

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """Read a certificate; a damaged one is an InputError."""
        try:
            content = json.loads(Path(path).read_text())
            content.pop("ok", None)
            content["batches"] = tuple(BatchCheck(**check) for check in content["batches"])
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no readable certificate ({error}); run the export again") from error


@dataclass(frozen=True)
class Artifact:
    """A file that stock ONNX Runtime loads, with its certificate and the reference outputs it was checked on."""

    path: Path

    @property
    def certificate_path(self) -> Path:
        """`NAME.certificate.json` beside the file."""
        return self.path.with_suffix(".certificate.json")

    @property
    def reference_path(self) -> Path:
        """`NAME.reference.npz` beside the file: example inputs at each batch, and PyTorch's outputs."""
        return self.path.with_suffix(".reference.npz")

    @property
    def bytes(self) -> int:
        """Size on disk, external data beside the file included."""
        beside = [p for p in self.path.parent.glob(self.path.name + "*") if p.suffix in (".data", ".onnx")]
        return sum(p.stat().st_size for p in {*beside, self.path})
