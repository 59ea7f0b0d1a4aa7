"""What paretune's parameters are to Optuna."""

from __future__ import annotations

from typing import Any

from paretune.search._space.parameters import Float, Int, Parameter


def distribution_of(parameter: Parameter) -> Any:
    """Return the distribution of a parameter that is searched over; priors are not part of it."""
    from optuna import distributions

    if isinstance(parameter, Float):
        return distributions.FloatDistribution(
            parameter.low, parameter.high, log=parameter.log, step=parameter.step
        )
    if isinstance(parameter, Int):
        return distributions.IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return distributions.CategoricalDistribution(parameter.values())
