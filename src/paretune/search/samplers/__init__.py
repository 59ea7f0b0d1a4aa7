"""Samplers: which configuration is tried next. `paretune methods samplers` lists them."""

from paretune.search.samplers._bayes import Bayes
from paretune.search.samplers._bohb import Bohb
from paretune.search.samplers._grid import Grid
from paretune.search.samplers._hyperband import Asha, Hyperband
from paretune.search.samplers._optuna import Optuna
from paretune.search.samplers._random import Random

__all__ = ["Asha", "Bayes", "Bohb", "Grid", "Hyperband", "Optuna", "Random"]
