"""A run folder as a run leaves it, made of plain values: what the report reads, and no more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretune.artifact import BatchCheck, Certificate

CHANNELS = {"conv1": (64, 32), "conv2": (128, 64), "conv3": (256, 128), "conv4": (256, 112), "head": (10, 10)}


def metric(value: float, n: int = 899) -> dict[str, Any]:
    return {"name": "accuracy", "value": value, "low": value - 0.009, "high": value + 0.008, "n": n}


def latency(ratio: float, verdict: str | None, half: float = 0.01) -> dict[str, Any]:
    return {
        "median_ms": 2.31 * ratio, "p99_ms": 2.9 * ratio, "min_ms": 2.2 * ratio, "ratio": ratio,
        "ratio_low": ratio - half if verdict else 1.0, "ratio_high": ratio + half if verdict else 1.0,
        "verdict": verdict, "rounds": 60, "load_average": 0.4, "noise": 1.05,
    }  # fmt: skip


def decision(drop: float, verdict: str = "within") -> dict[str, Any]:
    seen = f"drop {drop:.2f} points (95 %: {drop - 0.5:.2f} to {drop + 0.5:.2f})"
    text = f"{verdict} 1 points: {seen}, 899 samples"
    if verdict == "cannot tell":
        text = "cannot tell with 899 samples; about 2,400 would tell"
    return {
        "verdict": verdict, "max_drop": 1.0, "drop": drop, "low": drop - 0.5, "high": drop + 0.5, "n": 899,
        "n_needed": 2400 if verdict == "cannot tell" else None, "p_value": 0.6, "unit": "points", "text": text,
    }  # fmt: skip


def layers(*, pruned: bool, quantized: bool) -> list[dict[str, Any]]:
    found = []
    for index, (name, (before, after)) in enumerate(CHANNELS.items()):
        now = after if pruned else before
        share = now / before
        found.append(
            {
                "name": name,
                "type": "Linear" if name == "head" else "Conv2d",
                "channels_before": before,
                "channels_after": now,
                "macs_before": 4_700_000 * (index + 1),
                "macs_after": int(4_700_000 * (index + 1) * share * share),
                "bytes_before": 73_728 * (index + 1),
                "bytes_after": int(73_728 * (index + 1) * share * share) // (4 if quantized else 1),
                **({"snr_db": 34.2 - 3 * index} if quantized else {}),
            }
        )
    return found


def candidate(name: str, **measured: Any) -> dict[str, Any]:
    return {
        "name": name, "recipe": {"steps": [{"prune.channels": {"ratio": 0.5}}]},
        "certificate": f"artifacts/{name}.certificate.json",
        "metric": metric(0.983), "latency": latency(1.0, None), "bytes": 4_110_000, "params": 1_027_000,
        "macs": 37_900_000, "peak_memory_bytes": 21_400_000, "load_ms": 6.1, "train_seconds": 14.2,
        "artifact": f"artifacts/{name}.onnx", "split": "val",
        "command": f"paretune run runs/demo/artifacts/{name}.recipe.yaml",
        **measured,
    }  # fmt: skip


def make_summary() -> dict[str, Any]:
    behaviour = {
        "flips": 0.44,
        "worst_class": {"label": 8, "drop": 1.1, "n": 87},
        "calibration_error": {"before": 0.012, "after": 0.009},
    }
    small = {"params": 263_000, "macs": 9_620_000, "bytes": 1_060_000, "peak_memory_bytes": 9_800_000}
    pruned = {"layers": layers(pruned=True, quantized=False), "behaviour": behaviour} | small
    return {
        "schema": 1,
        "task": "examples/digits.py:make_task",
        "target": {
            "runtime": "onnxruntime", "threads": 1, "batch": 1,
            "machine": {
                "architecture": "x86_64", "name": "Example CPU @ 2.80GHz",
                "flags": ["avx", "avx2", "avx512_vnni", "avx512f", "fma"], "flags_hash": "0a1b2c3d4e5f",
                "cores": 2, "system": "Linux",
            },
        },
        "constraints": {"max_drop": 1.0, "max_latency": "0.5x"},
        "candidates": [
            candidate("baseline", layers=layers(pruned=False, quantized=False), test={"metric": metric(0.9833)}),
            candidate("pruned", metric=metric(0.931), latency=latency(0.31, "faster"),
                      decision=decision(5.2, "not within"),
                      notes=["prune.channels: head is not prunable: its channels are the classes"], **pruned),
            candidate("distilled", metric=metric(0.981), latency=latency(0.312, "faster"),
                      decision=decision(0.4, "cannot tell"), **pruned),
            candidate("quantized", metric=metric(0.98), latency=latency(0.143, "faster"),
                      decision=decision(0.2),
                      test={"metric": metric(0.981), "decision": decision(0.22)},
                      **pruned | {"layers": layers(pruned=True, quantized=True), "bytes": 271_000}),
            candidate("quantized-only", metric=metric(0.982), latency=latency(1.05, "slower", 0.02),
                      decision=decision(0.1), bytes=1_040_000, behaviour=behaviour),
        ],
        "best": "quantized",
    }  # fmt: skip


def make_events() -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"time": 1.0, "kind": "run_started", "name": "demo", "steps": ["train"]}]
    for step, epochs, terms in (
        ("train", 12, ("cross_entropy",)),
        ("distill", 8, ("soft_labels", "cross_entropy")),
    ):
        events.append({"time": 2.0, "kind": "step_started", "step": step, "index": 0, "count": 4})
        best = 0.0
        for epoch in range(1, epochs + 1):
            loss, value = 2.2 / epoch**0.9 + 0.02, 0.985 - 0.5 / epoch**1.7
            best = max(best, value)
            events.append(
                {
                    "time": 2.0 + epoch,
                    "kind": "epoch",
                    "step": step,
                    "epoch": epoch,
                    "epochs": epochs,
                    "loss": loss,
                    "terms": {name: loss / (index + 1.5) for index, name in enumerate(terms)},
                    "lr": 1e-3 / epoch,
                    "metric": "accuracy",
                    "value": value,
                    "best": best,
                    "seconds": 1.3,
                }
            )
        events.append({"time": 20.0, "kind": "step_finished", "step": step, "index": 0, "seconds": 15.0})
    events.append({"time": 21.0, "kind": "note", "step": "quantize.static", "text": "conv1: bias kept in float"})
    events.append({"time": 22.0, "kind": "warning", "text": "the machine was busy while timing (load 1.9)"})
    return events


def make_certificate(name: str, kind: str) -> Certificate:
    return Certificate(
        artifact=f"{name}.onnx", sha256="ab" * 32, kind=kind, tolerance=1e-4 if kind == "float" else 1.0,
        batches=tuple(BatchCheck(batch, 1.7e-6 * batch if kind == "float" else 0.0, True) for batch in (1, 2, 3)),
        drop_against_float=None if kind == "float" else 0.021,
        metric={**metric(0.98), "split": "val"}, versions={"onnxruntime": "1.32.0", "torch": "2.13.0"},
    )  # fmt: skip


def write_folder(
    folder: Path, summary: dict[str, Any], events: list[dict[str, Any]] | None = None, *, certificates: bool = True
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    if events is not None:
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    for row in summary["candidates"] if certificates else ():
        name = row["name"]
        make_certificate(name, "int8" if "quantized" in name else "float").save(
            folder / f"artifacts/{name}.certificate.json"
        )
    return folder


@pytest.fixture
def summary() -> dict[str, Any]:
    return copy.deepcopy(make_summary())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_folder(tmp_path / "demo", make_summary(), make_events())
    (made / "recipe.yaml").write_text("task: examples/digits.py:make_task\nconstraints: {max_drop: 1.0}\n")
    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of a changed summary: write(summary, events=None, certificates=False)."""

    def made(content: dict[str, Any], events: Any = None, *, certificates: bool = False) -> Path:
        return write_folder(tmp_path / "run", content, events, certificates=certificates)

    return made
