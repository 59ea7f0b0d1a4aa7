"""What a run finds out about its stages: verified in a fresh process, timed together, compared in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune import summary
from paretune.artifact import Artifact, Certificate
from paretune.decision import behaviour, decide
from paretune.errors import VerificationError
from paretune.measurement import Evaluation, Latency, Measurement
from paretune.recipe import Constraints, Recipe
from paretune.stages import Flow, Stage

ERROR_SAMPLES = 16
"""Samples that each layer's error after quantization is seen on."""


def measure(flow: Flow, stages: Sequence[Stage]) -> list[summary.Row]:
    """Verify every stage in a fresh process and time all of them in the same rounds, the first as baseline.

    What a run before a kill measured of these very files is read back from its journal.
    """
    from paretune.files import sha256

    key = [[stage.name, sha256(stage.artifact)] for stage in stages]
    for event in flow.folder.recorded("measured"):
        if event["files"] == key and all(
            (flow.folder.path / row["certificate"]).is_file() for row in event["rows"]
        ):
            return list(event["rows"])
    rows = _measure(flow, stages)
    flow.folder.record("measured", {"files": key, "rows": rows})
    return rows


def _measure(flow: Flow, stages: Sequence[Stage]) -> list[summary.Row]:
    from paretune.measure import latency

    flow.folder.emit("measuring", {"what": "latency", "done": 0, "total": len(stages)})
    latencies = latency([stage.artifact for stage in stages], flow.recipe.target, inputs=flow.task.inputs())
    rows: list[summary.Row] = []
    evaluations: list[Evaluation] = []
    for index, (stage, timing) in enumerate(zip(stages, latencies, strict=True)):
        flow.folder.emit("measuring", {"what": stage.name, "done": index, "total": len(stages)})
        row, evaluation = _row(flow, stage, timing, evaluations[0] if evaluations else None, stages[0])
        rows.append(row)
        evaluations.append(evaluation)
        flow.folder.emit("candidate", {"name": stage.name, "row": row})
    return rows


def _row(
    flow: Flow, stage: Stage, timing: Latency, baseline: Evaluation | None, first: Stage
) -> tuple[summary.Row, Evaluation]:
    """Certify, evaluate and cost one stage; return its row of the summary."""
    from paretune.export import certify, evaluate_file
    from paretune.measure import fresh_process, macs, parameters

    certificate = certify(
        stage.artifact, stage.model, flow.task, kind=stage.kind, exported=stage.exported, split=None,
        float_path=stage.float_artifact if stage.kind == "int8" else None,
    )  # fmt: skip
    if not certificate.ok:
        failed = next(check for check in certificate.batches if not check.ok)
        raise VerificationError(
            f"{stage.artifact} does not compute what the model computes: error {failed.error:.3g} at batch "
            f"{failed.batch} (allowed {certificate.tolerance:g}), first seen at "
            f"{failed.diverges_at or 'the output'}"
        )
    evaluation = evaluate_file(stage.artifact, flow.task.data("val"), flow.task.resolved_metric())
    _certify_metric(stage.artifact, evaluation, _split_name(flow, "val"))
    load_ms, memory = fresh_process(stage.artifact, flow.recipe.target)
    measured = Measurement(
        metric=evaluation, latency=timing, bytes=stage.artifact.stat().st_size,
        params=parameters(stage.model), macs=macs(stage.model, flow.task.inputs()),
        peak_memory_bytes=memory, load_ms=load_ms,
    )  # fmt: skip
    prefix = dataclasses.replace(flow.recipe, steps=stage.steps)
    row: summary.Row = {
        "name": stage.name,
        "recipe": prefix.to_dict(),
        "certificate": str(stage.artifact.with_suffix(".certificate.json").relative_to(flow.folder.path)),
        **measured.to_json(),
        "train_seconds": stage.seconds,
        "artifact": str(stage.artifact.relative_to(flow.folder.path)),
        "checkpoint": str(stage.checkpoint.relative_to(flow.folder.path)) if stage.checkpoint else None,
        "split": _split_name(flow, "val"),
        "notes": list(dict.fromkeys(stage.notes)),
        "command": _command(flow, prefix, stage.name),
        "layers": _layers(flow, stage, first),
    }
    if baseline is not None:
        row |= _compared(baseline, evaluation, flow.recipe.constraints)
    return row, evaluation


def _compared(baseline: Evaluation, evaluation: Evaluation, constraints: Constraints) -> summary.Row:
    """Return the paired decision on the drop, and what changed beside the metric.

    Without a bound the decision is about one point (percent); there is none where a baseline of 0 has no percent.
    """
    bound = 1.0 if constraints.max_drop is None else constraints.max_drop
    if constraints.max_drop is None and not baseline.metric.fraction and baseline.value == 0:
        return {"behaviour": behaviour(baseline, evaluation)}
    decision = decide(baseline, evaluation, bound)
    return {"decision": decision.to_json(), "behaviour": behaviour(baseline, evaluation)}


def _layers(flow: Flow, stage: Stage, first: Stage) -> list[dict[str, Any]]:
    """Return the table of layers before and after, with each one's error where the stage is quantized."""
    from paretune.measure import layer_table

    if stage.graph_before is None:
        return layer_table(first.model, stage.model, flow.task.inputs())
    from paretune.feeds import feeds
    from paretune.quantize import layer_errors

    rows = layer_table(first.model, stage.model, flow.task.inputs(), weight_bytes=1)
    names = [value.name for value in stage.graph_before.graph.input]
    samples = feeds(names, flow.task.data("val").first(stage.exported.fixed_batch or ERROR_SAMPLES)[0])
    errors = {e["module"]: e["snr_db"] for e in layer_errors(stage.graph_before, stage.exported.graph, samples)}
    return [row | ({"snr_db": errors[row["name"]]} if row["name"] in errors else {}) for row in rows]


def _command(flow: Flow, prefix: Recipe, name: str) -> str:
    from paretune.files import write_text

    path = flow.folder.artifacts / f"{name}.recipe.yaml"
    write_text(path, prefix.to_yaml())
    if prefix.task is None:
        return f"paretune.run(paretune.read_recipe({str(path)!r}), task, out=...)"
    return f"paretune run {path}"


def _split_name(flow: Flow, split: str) -> str:
    """Return which data a split really is: a task without `val` is judged on `test`, and the reverse."""
    if getattr(flow.task, split) is not None:
        return split
    return {"val": "test", "test": "val"}[split]


def confirm(flow: Flow, rows: list[summary.Row], stages: Sequence[Stage], best: str | None) -> str | None:
    """Measure the chosen candidate once on the test data, beside the baseline; return it if it still holds."""
    from paretune.export import evaluate_file

    if best is None or flow.task.test is None or flow.task.val is None:
        if best is not None:
            flow.folder.emit("note", {"text": "chosen and reported on the same data: the task has no test data"})
        return best
    metric, data = flow.task.resolved_metric(), flow.task.data("test")
    chosen = next(i for i, row in enumerate(rows) if row["name"] == best)
    evaluations = {i: evaluate_file(stages[i].artifact, data, metric) for i in {0, chosen}}
    for index, evaluation in evaluations.items():
        rows[index]["test"] = {"metric": evaluation.to_json()}
        _certify_metric(stages[index].artifact, evaluation, "test")
    if chosen == 0:
        return best
    compared = _compared(evaluations[0], evaluations[chosen], flow.recipe.constraints)
    rows[chosen]["test"] |= compared
    problems = summary.violations(rows[chosen] | compared, rows[0], flow.recipe.constraints)
    if problems:
        text = f"'{best}' held on validation data, but not on test data: {'; '.join(problems)}"
        flow.folder.emit("warning", {"text": text})
        return None
    return best


def _certify_metric(artifact: Path, evaluation: Evaluation, split: str) -> None:
    """Write the metric, measured from the file, into the file's certificate."""
    path = Artifact(artifact).certificate_path
    certificate = Certificate.load(path)
    dataclasses.replace(certificate, metric={**evaluation.to_json(), "split": split}).save(path)
