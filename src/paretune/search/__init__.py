"""Search: hyperparameters by grid, random, Bayesian and BOHB, over any objective; numbers, never models.

>>> from paretune.search import Float, Space
>>> Space({"lr": Float(1e-5, 1e-1, log=True)}).names
('lr',)
"""

from paretune.search._space.parameters import Categorical, Constant, Float, Int, Ordered, Parameter
from paretune.search._space.predicates import Predicate, when
from paretune.search._space.priors import Beta, LogNormal, Normal, Prior, about
from paretune.search._space.space import Space

__all__ = [
    "Beta",
    "Categorical",
    "Constant",
    "Float",
    "Int",
    "LogNormal",
    "Normal",
    "Ordered",
    "Parameter",
    "Predicate",
    "Prior",
    "Space",
    "about",
    "when",
]
