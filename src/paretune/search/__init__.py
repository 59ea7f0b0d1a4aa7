"""Search: hyperparameters by grid, random, Bayesian and BOHB, over any objective; numbers, never models.

>>> from paretune.search import Float, minimize
>>> result = minimize(lambda config: (config["x"] - 0.3) ** 2, {"x": Float(0, 1)}, method="random", budget=50)
>>> abs(result.config["x"] - 0.3) < 0.05
True
"""

from paretune.search._space.configspace import read_configspace, write_configspace
from paretune.search._space.parameters import Categorical, Constant, Float, Int, Ordered, Parameter
from paretune.search._space.predicates import Predicate, when
from paretune.search._space.priors import Beta, LogNormal, Normal, Prior, about
from paretune.search._space.space import Space
from paretune.search._study.entry import minimize, resume
from paretune.search._study.events import Event
from paretune.search._study.limits import Limits
from paretune.search._study.objective import Run
from paretune.search._study.replay import Difference, Replay, replay
from paretune.search._study.result import Result
from paretune.search._study.trial import Trial
from paretune.search.samplers._base import Exhausted, Sampler, Suggestion

__all__ = [
    "Beta",
    "Categorical",
    "Constant",
    "Difference",
    "Event",
    "Exhausted",
    "Float",
    "Int",
    "Limits",
    "LogNormal",
    "Normal",
    "Ordered",
    "Parameter",
    "Predicate",
    "Prior",
    "Replay",
    "Result",
    "Run",
    "Sampler",
    "Space",
    "Suggestion",
    "Trial",
    "about",
    "minimize",
    "read_configspace",
    "replay",
    "resume",
    "when",
    "write_configspace",
]
