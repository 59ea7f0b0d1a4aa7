"""Scores: how much each channel matters; the lowest are removed first.

A score is a function of what it names as arguments, and returns one number for each unit. The first axis of a
`weight` is the unit: a channel, a head, a block or a single weight is only another arrangement of the same tensor.
What a score may name, and how it is collected over data, is in `paretune.prune._evidence`. This list is the
registry: a recipe says `score: l1`, or `score: {taylor: {of: output}}`.
"""

from paretune.prune.scores._apoz import apoz
from paretune.prune.scores._bn_scale import bn_scale
from paretune.prune.scores._cosine import cosine
from paretune.prune.scores._fisher import fisher
from paretune.prune.scores._geometric_median import geometric_median
from paretune.prune.scores._gradient_norm import gradient_norm
from paretune.prune.scores._grasp import grasp
from paretune.prune.scores._l1 import l1
from paretune.prune.scores._l2 import l2
from paretune.prune.scores._lasso import lasso
from paretune.prune.scores._obc import obc
from paretune.prune.scores._random import random
from paretune.prune.scores._snip import snip
from paretune.prune.scores._sparsegpt import sparsegpt
from paretune.prune.scores._synflow import synflow
from paretune.prune.scores._taylor import taylor
from paretune.prune.scores._thinet import thinet
from paretune.prune.scores._wanda import wanda
from paretune.prune.scores._ziplm import ziplm

__all__ = [
    "apoz",
    "bn_scale",
    "cosine",
    "fisher",
    "geometric_median",
    "gradient_norm",
    "grasp",
    "l1",
    "l2",
    "lasso",
    "obc",
    "random",
    "snip",
    "sparsegpt",
    "synflow",
    "taylor",
    "thinet",
    "wanda",
    "ziplm",
]
