"""Check a folder's certificates again, from its files alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paretune.artifact import Artifact, BatchCheck, Certificate
from paretune.errors import InputError, ParetuneError
from paretune.export._process import check_in_fresh_process
from paretune.export._run import evaluate_file
from paretune.export._verify import batch_checks
from paretune.files import sha256
from paretune.task import Task, load_task

METRIC_TOLERANCE = 1e-6
"""Of the metric, relative where it is above 1; a metric that is a fraction of samples may differ by one sample."""


@dataclass(frozen=True)
class Verification:
    """What a second look at one artifact found."""

    artifact: Path
    ok: bool
    reasons: tuple[str, ...] = ()
    """Why it is not ok, one sentence each."""
    notes: tuple[str, ...] = ()
    """What could not be checked, and why."""
    batches: tuple[BatchCheck, ...] = ()
    metric: dict[str, Any] = field(default_factory=dict)
    """Measured again from the file; empty where that was not possible."""

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain JSON."""
        return {**asdict(self), "artifact": str(self.artifact)}


def verify_folder(folder: Path, task: Task | None = None) -> list[Verification]:
    """Check every certificate in a folder or its `artifacts/`: digest, batches in a fresh process, metric.

    task: where to measure the metric; else the `task` that the folder's recipe.yaml names is loaded, and where
    that fails a note says so. A folder without a certificate is an InputError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that `paretune run` or `best.save` wrote")
    paths = sorted([*folder.glob("*.certificate.json"), *(folder / "artifacts").glob("*.certificate.json")])
    if not paths:
        raise InputError(
            f"{folder} holds no certificate (NAME.certificate.json, there or in artifacts/); "
            "give a folder that `paretune run` or `best.save` wrote"
        )
    notes: tuple[str, ...] = ()
    if task is None:
        task, notes = _task_of(folder)
    return [_verify(path, task, notes) for path in paths]


def _verify(certificate_path: Path, task: Task | None, notes: tuple[str, ...]) -> Verification:
    path = certificate_path.with_name(certificate_path.name.removesuffix(".certificate.json") + ".onnx")
    try:
        certificate = Certificate.load(certificate_path)
        path = path.with_name(Path(certificate.artifact).name)
        reasons = _changed(Artifact(path), certificate)
        if reasons:
            return Verification(path, False, tuple(reasons), notes)
        checks, reasons = _batches(Artifact(path), certificate)
        metric, more, metric_notes = _metric(path, certificate, task)
    except ParetuneError as error:
        return Verification(path, False, (str(error),), notes)
    reasons += more
    return Verification(path, not reasons, tuple(reasons), (*notes, *metric_notes), checks, metric)


def _changed(artifact: Artifact, certificate: Certificate) -> list[str]:
    """Return which of the files are missing or not the ones that were certified."""
    reasons = []
    expected = {artifact.path: certificate.sha256, artifact.reference_path: certificate.reference_sha256}
    for path, digest in expected.items():
        if not path.is_file():
            reasons.append(f"{path.name} is missing")
        elif digest and (found := sha256(path)) != digest:
            reasons.append(
                f"{path.name} was changed: its SHA-256 is {found[:12]}..., certified was {digest[:12]}..."
            )
    return reasons


def _batches(artifact: Artifact, certificate: Certificate) -> tuple[tuple[BatchCheck, ...], list[str]]:
    outcome = check_in_fresh_process(artifact.path, artifact.reference_path)
    checks = batch_checks(outcome)
    unit = "steps of the output's grid" if certificate.kind == "int8" else "of the largest output"
    reasons = [
        f"{artifact.path.name} at batch {check.batch}: differs from its reference by {check.error:.3g} {unit}, "
        f"allowed is {certificate.tolerance:g}"
        for check in checks
        if not check.ok
    ]
    reasons += [
        f"{artifact.path.name} at batch {check.batch}: its certificate says that it failed"
        + (f" at {check.diverges_at}" if check.diverges_at else "")
        for check in certificate.batches
        if not check.ok
    ]
    return checks, reasons


def _metric(
    path: Path, certificate: Certificate, task: Task | None
) -> tuple[dict[str, Any], list[str], tuple[str, ...]]:
    """Return the metric measured again, why it does not agree, and what could not be checked."""
    stated = certificate.metric
    if not stated:
        return {}, [], (f"{path.name}: its certificate states no metric",)
    if task is None:
        return {}, [], (f"{path.name}: its metric was not measured again, as there is no task",)
    metric = task.resolved_metric()
    if metric.name != stated["name"]:
        return {}, [f"{path.name}: certified was {stated['name']}, the task's metric is {metric.name}"], ()
    data = task.data(stated["split"])
    evaluation = evaluate_file(path, data, metric, limit=stated["n"])
    found = {**evaluation.to_json(), "split": stated["split"]}
    allowed = 1 / stated["n"] + 1e-9 if metric.fraction else METRIC_TOLERANCE * max(1.0, abs(stated["value"]))
    agrees = evaluation.n == stated["n"] and abs(evaluation.value - stated["value"]) <= allowed
    reason = (
        f"{path.name}: {metric.name} is {evaluation.value:.6g} on {evaluation.n} samples of {stated['split']}, "
        f"certified was {stated['value']:.6g} on {stated['n']}"
    )
    return found, [] if agrees else [reason], ()


def _task_of(folder: Path) -> tuple[Task | None, tuple[str, ...]]:
    """Return the task that the folder's recipe names, or None and why there is none."""
    recipe = folder / "recipe.yaml"
    if not recipe.is_file():
        return None, (f"the metric was not measured again: {folder} has no recipe.yaml that names the task",)
    try:
        content = yaml.safe_load(recipe.read_text())
        reference = content.get("task") if isinstance(content, dict) else None
        if not isinstance(reference, str):
            return None, ("the metric was not measured again: recipe.yaml names no task",)
        return load_task(reference), ()
    except (ParetuneError, yaml.YAMLError, OSError) as error:
        return None, (f"the metric was not measured again: {error}",)
