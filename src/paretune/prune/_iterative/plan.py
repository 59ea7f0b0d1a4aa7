"""What is done in the rounds of iterative pruning: the fields of the step, validated when they are set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from paretune.errors import InputError, RecipeError, check_choice
from paretune.prune._iterative.amounts import LISTED, field_of, shares, way_of
from paretune.prune._iterative.teachers import TEACHERS
from paretune.recipe import GraphStep, Range, Step, check_ranges, step_of

StepSpec = str | dict[str, dict[str, Any] | None]
"""A step as a recipe writes it: `distill`, or with fields `{distill: {epochs: 4}}`."""
KEEP = ("smallest", "best")


def cut_in_half() -> StepSpec:
    """Return the cut that is made where none is given."""
    return {"prune.channels": {"macs": 0.5}}


def four_epochs() -> StepSpec:
    """Return the recovery that follows where none is given."""
    return {"distill": {"epochs": 4}}


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Cuts, recoveries and teachers of iterative pruning."""

    name: ClassVar[str] = "prune.iterative"

    prune: StepSpec = field(default_factory=cut_in_half)
    """The step that cuts, with what it shall have reached in the end: {prune.channels: {macs: 0.33}}."""
    recover: StepSpec = field(default_factory=four_epochs)
    """The step that trains after the cuts of a round: distill, or train, which has no teacher."""
    rounds: Annotated[int, Range(1, 100)] = 3
    """How often it is cut and trained."""
    cuts: Annotated[int, Range(1, 100)] = 1
    """Cuts that the first round makes before it trains."""
    shrink: Annotated[float, Range(0.0, 1.0, low_open=True)] = 1.0
    """What a round has of the way and of the number of cuts, against the round before; 1 is geometric."""
    amounts: tuple[float | str, ...] | None = None
    """Instead: what the step is given in each round, literally; as many rounds as amounts."""
    teacher: str = "first"
    """Who teaches from the second round on: full, first, last, best or ensemble; the full model the first."""
    rewind_weights: bool = False
    """Before each recovery kept weights go back to those that the model came in with."""
    max_drop: Annotated[float | None, Range(0.0, 1000.0)] = None
    """Stop after the first round that loses more points (percent where the metric is none) on validation data."""
    keep: str = "smallest"
    """`smallest`, the last round that held max_drop; `best`, that of the best metric on validation data."""
    one_shot: bool = False
    """Also cut at once and recover for as many epochs, under the full model, for comparison; it is not kept."""
    latency: bool = True
    """Time every round against the model that came in, exported in float, on the target."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, known in (("teacher", TEACHERS), ("keep", KEEP)):
            check_choice(f"prune.iterative: {name}", getattr(self, name), known)
        if self.amounts is not None and not self.amounts:
            raise RecipeError("prune.iterative: amounts is empty; give one for each round, or leave it out")
        if self.one_shot:
            self.at_once()
        self.steps()
        self.recovery()

    def recovery(self) -> Step:
        """Return the step that trains after the cuts of a round."""
        step = step_of(self.recover, "prune.iterative: recover")
        if not hasattr(step, "epochs"):
            raise RecipeError(
                f"prune.iterative: recover: {step.name} does not train; give distill or train, with their epochs"
            )
        return step

    def steps(self) -> list[list[Step]]:
        """Return the cuts of every round."""
        step = step_of(self.prune, "prune.iterative: prune")
        if isinstance(step, GraphStep | Rounds) or not step.name.startswith("prune."):
            raise RecipeError(f"prune.iterative: prune: {step.name} is no cut; give prune.channels or the like")
        if self.amounts is not None and self.rounds not in (type(self).rounds, len(self.amounts)):
            raise RecipeError(
                f"prune.iterative: rounds={self.rounds}, and {len(self.amounts)} amounts; there are as many "
                "rounds as amounts: leave out rounds"
            )
        if self.amounts is not None:
            name = field_of(step, LISTED)
            return [[_with(step, name, amount)] for amount in self.amounts]
        way = way_of(step)
        parts = shares(self.rounds, self.cuts, self.shrink)
        values = iter(way.amounts([part for row in parts for part in row]))
        return [[_with(step, way.field, next(values)) for _ in row] for row in parts]

    def amount(self, step: Step) -> dict[str, Any]:
        """Return what a cut was given: the name of the field, and its value."""
        name = field_of(step, LISTED)
        return {name: getattr(step, name)}

    def to_json(self) -> dict[str, Any]:
        """Return every field as plain values, and every cut and the recovery with their defaults."""
        steps = [[{step.name: step.parameters()} for step in row] for row in self.steps()]
        recovery = self.recovery()
        own = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("prune", "recover")
        }
        return own | {"prune": steps, "recover": {recovery.name: recovery.parameters()}}

    def at_once(self) -> Rounds:
        """Return the plan of one round that ends where this one does, and trains for as many epochs."""
        recovery = self.recovery()
        epochs = getattr(recovery, "epochs", None)
        if epochs is None or self.amounts is not None:
            why = f"{recovery.name} has no epochs to be made equal" if epochs is None else "leave out amounts"
            raise RecipeError(f"prune.iterative: one_shot compares at equal epochs with one cut to the end: {why}")
        fields = recovery.parameters() | {"epochs": epochs * self.rounds}
        return Rounds(
            prune=self.prune, recover={recovery.name: fields}, rounds=1, rewind_weights=self.rewind_weights
        )


def _with(step: Step, name: str, value: Any) -> Step:
    """Return a step with another value of a field."""
    try:
        return dataclasses.replace(step, **{name: value})  # type: ignore[type-var]
    except InputError as error:
        raise RecipeError(f"prune.iterative: amounts: {error}") from error
