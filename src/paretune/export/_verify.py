"""The certificate of a file: what it computes, compared with what it must compute, in a fresh process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

import paretune
from paretune.artifact import Artifact, BatchCheck, Certificate
from paretune.data import call
from paretune.errors import VerificationError
from paretune.export._diverge import describe, first_divergence
from paretune.export._grid import output_steps
from paretune.export._process import check_in_fresh_process
from paretune.export._reference import at_batch, pool_of, torch_outputs, write_reference
from paretune.export._run import evaluate_file, run_arrays, session
from paretune.export._run import fixed_batch as batch_of_file
from paretune.export._worker import relative_error
from paretune.export._writer import CHECKED_BATCHES, Exported, export_onnx, ready
from paretune.files import sha256
from paretune.task import Task

FLOAT_TOLERANCE = 1e-4
"""Of the largest |output| of PyTorch."""
INT8_TOLERANCE = 1.0
"""Steps of the output's grid, against the file's own graph run as it is written."""
ROUNDING = 1e-3
"""Of a step: two values one step apart are not exactly so in float32."""


def certify(
    path: Path,
    model: nn.Module | None,
    task: Task,
    *,
    kind: str,
    float_path: Path | None = None,
    fixed_batch: int | None = None,
    exported: Exported | None = None,
    split: str | None = "test",
    limit: int | None = None,
) -> Certificate:
    """Check a file and write `NAME.certificate.json` and `NAME.reference.npz` beside it; return the certificate.

    kind: `float`: against `model` in eval mode, within 1e-4 of the largest output; where that fails the first
    diverging node is named (`exported` spares a second export). `int8`: against its own graph with optimisations
    off, within one step of the output's grid, or where rounding adds up to more, each node within one step given
    its inputs; `float_path` adds how far it is from the float file.

    Batches 1, 2 and 3, or the file's fixed batch. They run in a fresh process that imports no torch; the metric
    is measured here, from the file, on the given split (None measures none). A check that fails is in the
    certificate, `ok` False; a file that does not run at all is a VerificationError.
    """
    artifact, path = Artifact(Path(path)), Path(path)
    running = session(path)
    fixed = fixed_batch or batch_of_file(running)
    batches = (fixed,) if fixed else CHECKED_BATCHES
    names = [value.name for value in running.get_inputs()]
    pool = pool_of(task)
    references, steps, tolerance = _references(path, model, pool, batches, kind)
    write_reference(artifact.reference_path, pool, names, references, kind=kind, tolerance=tolerance, steps=steps)
    outcome = check_in_fresh_process(path, artifact.reference_path)
    checks = batch_checks(outcome)
    if not all(check.ok for check in checks):
        checks = _located(path, model, task, pool, checks, outcome, exported)
    certificate = Certificate(
        artifact=path.name,
        sha256=outcome["sha256"],
        kind=kind,
        tolerance=tolerance,
        batches=checks,
        fixed_batch=fixed,
        drop_against_float=_drop(path, float_path, pool, batches) if float_path else None,
        metric=_metric(path, task, split, limit) if split else {},
        versions=versions(outcome["versions"]),
        reference_sha256=sha256(artifact.reference_path),
    )
    certificate.save(artifact.certificate_path)
    return certificate


def batch_checks(outcome: Mapping[str, Any]) -> tuple[BatchCheck, ...]:
    """Return the worker's findings, judged: each batch within the tolerance or not.

    An INT8 file whose outputs are further apart passes if each of its nodes is within the tolerance of the graph
    as written, given what the kernels computed before it: see `_nodewise`.
    """
    limit = outcome["tolerance"] + (ROUNDING if outcome["kind"] == "int8" else 0.0)
    checks = []
    for found in outcome["batches"]:
        node_error = found.get("node_error")
        ok = found["error"] <= limit or (node_error is not None and node_error <= limit)
        checks.append(BatchCheck(found["batch"], found["error"], ok, node_error=node_error))
    return tuple(checks)


def versions(others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the versions of what a certificate rests on."""
    found = {"paretune": paretune.__version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, **(others or {})}


def _references(
    path: Path, model: nn.Module | None, pool: Any, batches: tuple[int, ...], kind: str
) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, float], float]:
    """Return the outputs that the file must give at each batch, the steps of its grid, and the tolerance."""
    if kind == "float":
        if model is None:
            raise VerificationError(
                f"{path.name}: a float file is compared with its PyTorch model; certify(path, model, ...)"
            )
        with ready(model):
            outputs = {b: torch_outputs(lambda inputs: call(model, inputs), at_batch(pool, b)) for b in batches}
        renamed = _by_position(path, outputs)
        return renamed, {}, FLOAT_TOLERANCE
    if kind != "int8":
        raise ValueError(f"kind={kind!r} must be 'float' or 'int8'")
    plain = session(path, optimize=False)
    references = {b: run_arrays(plain, at_batch(pool, b)) for b in batches}
    widest = references[max(batches)]
    return references, output_steps(onnx.load(path), widest), INT8_TOLERANCE


def _by_position(path: Path, outputs: dict[int, dict[str, np.ndarray]]) -> dict[int, dict[str, np.ndarray]]:
    """Name PyTorch's outputs as the file does (an output that bears an input's name is renamed on export)."""
    names = [value.name for value in session(path).get_outputs()]
    for batch, values in outputs.items():
        if len(values) != len(names):
            raise VerificationError(
                f"{path.name}: it has {len(names)} outputs at batch {batch}, the model {len(values)}"
            )
    return {batch: dict(zip(names, values.values(), strict=True)) for batch, values in outputs.items()}


def _located(
    path: Path,
    model: nn.Module | None,
    task: Task,
    pool: Any,
    checks: tuple[BatchCheck, ...],
    outcome: Mapping[str, Any],
    exported: Exported | None,
) -> tuple[BatchCheck, ...]:
    """Add to each failed check where the file leaves the path of its reference."""
    content, located = path.read_bytes(), []
    for check, found in zip(checks, outcome["batches"], strict=True):
        if check.ok:
            where = None
        elif "node" in found:
            where = describe(_source_node(content, found["node"], exported))
        elif found["unoptimized_error"] <= outcome["tolerance"]:
            where = "ONNX Runtime's optimisations: with them off, this file agrees"
        elif model is not None:
            exported = exported or export_onnx(model, task.inputs())
            where = first_divergence(content, exported, at_batch(pool, check.batch), outcome["tolerance"])
        located.append(replace(check, diverges_at=where))
    return tuple(located)


def _source_node(content: bytes, index: int, exported: Exported | None) -> onnx.NodeProto:
    """Return a node of a file, by its place, as the unstripped graph has it; for a quantizer the one before it."""
    file = onnx.load_model_from_string(content)
    known = exported is not None and len(exported.graph.graph.node) == len(file.graph.node)
    nodes = exported.graph.graph.node if exported is not None and known else file.graph.node
    makers = {name: node for node in nodes for name in node.output}
    node: onnx.NodeProto = nodes[index]
    while node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in makers:
        node = makers[node.input[0]]
    return node


def _drop(path: Path, float_path: Path, pool: Any, batches: tuple[int, ...]) -> float:
    """Return the largest |difference| of two files' outputs over the float one's largest |value|."""
    int8, reference = session(path), session(float_path)
    errors = []
    for batch in batches:
        inputs = at_batch(pool, batch)
        got, expected = run_arrays(int8, inputs), run_arrays(reference, inputs)
        errors += [relative_error(got[name], expected[name]) for name in expected]
    return max(errors)


def _metric(path: Path, task: Task, split: str, limit: int | None) -> dict[str, Any]:
    """Return the metric, measured from the file, and the split it was in truth measured on."""
    data = task.data(split)
    used = split if getattr(task, split) is not None else {"test": "val", "val": "test"}.get(split, split)
    evaluation = evaluate_file(path, data, task.resolved_metric(), limit=limit)
    return {**evaluation.to_json(), "split": used}
