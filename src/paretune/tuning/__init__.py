"""Tuning: a recipe with values left open is a search space, and what a run measures is what is searched for."""

from paretune.tuning._open import OpenRecipe, read_open
from paretune.tuning._tune import Candidate, Tuned, candidate_of, tune

__all__ = ["Candidate", "OpenRecipe", "Tuned", "candidate_of", "read_open", "tune"]
