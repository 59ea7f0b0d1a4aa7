"""`paretune measure`: an ONNX file timed alone, against another, or as a real-time service would see it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paretune.cli._screen import Screen, command

if TYPE_CHECKING:
    from paretune.measure import Service

FILE = click.Path(path_type=Path, dir_okay=False)


@command("measure")
@click.argument("model", type=FILE)
@click.option("--against", type=FILE, help="A baseline, timed in the same interleaved rounds.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the runtime.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples in a call.")
@click.option("--rate", help="Send requests at a fixed rate (50/s, 600/min) and count the late ones.")
@click.option("--deadline", help="With --rate: how long a request may take (20ms), counted from when it was due.")
@click.option("--seconds", type=float, help="How long to time. [default: 2 a file; 10 with --rate]")
def measure(
    screen: Screen,
    model: Path,
    against: Path | None,
    threads: int,
    batch: int,
    rate: str | None,
    deadline: str | None,
    seconds: float | None,
) -> None:
    """Measure MODEL, an ONNX file: latency, bytes, load time and memory on the runtime.

    With --against the ratio of the two latencies has a 95 % interval and a verdict: faster, same, slower, or too
    noisy to tell. With --rate and --deadline the file is measured as a service.
    """
    from paretune import Target
    from paretune.measure import file, serve

    context, target = click.get_current_context(), Target(threads=threads, batch=batch)
    if (rate is None) != (deadline is None):
        raise click.UsageError("--rate and --deadline belong together: --rate 50/s --deadline 20ms", context)
    if rate is None or deadline is None:
        seen = file(model, against=against, target=target, seconds=2.0 if seconds is None else seconds)
        screen.show(seen, lambda: _file_text(seen))
        return
    if against is not None:
        raise click.UsageError("--rate measures one file as a service: leave out --against", context)
    served = serve(
        model, rate=rate, deadline=deadline, target=target, seconds=10.0 if seconds is None else seconds
    )
    document = {"file": str(model), "service": served.to_json(), "target": target.to_json()}
    screen.show(document, lambda: _service_text(model, served))


def _file_text(seen: Mapping[str, Any]) -> str:
    files = [seen["baseline"], seen] if "baseline" in seen else [seen]
    lines = [_one(each) for each in files]
    if len(files) == 2:
        latency = seen["latency"]
        lines.append(
            f"latency {latency['ratio']:.3f}x (95 %: {latency['ratio_low']:.3f} to {latency['ratio_high']:.3f}): "
            f"{latency['verdict']}; bytes {seen['bytes'] / files[0]['bytes']:.3f}x"
        )
    return "\n".join([*lines, _machine(seen)])


def _one(seen: Mapping[str, Any]) -> str:
    latency = seen["latency"]
    return (
        f"{seen['file']}\n  latency  median {latency['median_ms']:.3f} ms, p99 {latency['p99_ms']:.3f} ms\n  "
        f"bytes    {seen['bytes']:,}\n  load     {seen['load_ms']:.1f} ms\n  memory   "
        f"{seen['peak_memory_bytes'] / 1e6:.1f} MB at its peak"
    )


def _service_text(model: Path, served: Service) -> str:
    return (
        f"{model} at {served.rate:g} requests/s, deadline {served.deadline_ms:g} ms\n"
        f"  p50         {served.p50_ms:.3f} ms\n"
        f"  p99         {served.p99_ms:.3f} ms\n"
        f"  missed      {served.missed} of {served.sent} ({served.missed_fraction:.2%})\n"
        f"  throughput  {served.throughput:.1f} answers/s"
    )


def _machine(seen: Mapping[str, Any]) -> str:
    target, machine = seen["target"], seen["target"]["machine"]
    return f"{target['runtime']}, {target['threads']} thread(s), batch {target['batch']}, on {machine['name']}"
