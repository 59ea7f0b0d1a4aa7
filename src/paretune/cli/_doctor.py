"""`paretune doctor`: what works on this machine, tried, and how small a difference its clock can see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretune.cli._screen import Screen, command


@command("doctor")
def doctor(screen: Screen) -> None:
    """Show versions, the CPU and its flags, which engines work, and how small a difference shows here.

    Takes about 15 seconds: a file is timed against itself, and whatever difference shows is the machine's.
    """
    from paretune.measure import doctor as examine

    screen.say("timing a file against itself ...")
    found = examine()
    screen.show(found, lambda: _text(found))


def _text(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    lines = [f"{name:12} {version}" for name, version in found["versions"].items()]
    lines += [
        f"{'CPU':12} {machine['name']} ({machine['architecture']}), {machine['cores']} cores",
        f"{'flags':12} {' '.join(machine['flags']) or 'unknown'} (hash {machine['flags_hash']})",
        f"{'load':12} {found['load_average']:.2f}",
    ]
    for engine, kinds in found["engines"].items():
        lines += [f"{engine:12} {kind}: {answer}" for kind, answer in kinds.items()]
    return "\n".join([*lines, f"{'timing':12} {_timing(found['timing'])}"])


def _timing(timing: Mapping[str, Any]) -> str:
    smallest = timing["smallest_visible_difference"]
    verdicts = ", ".join(map(str, timing["verdicts"]))
    if smallest is None:
        return f"too noisy to see any difference now ({verdicts}); close other programs and try again"
    return f"differences above {smallest:.1%} show here; a file against itself: {verdicts}"
