"""Tuning: a recipe with values left open is a search space, and what a run measures is what is searched for."""

from paretune.tuning._open import OpenRecipe, read_open
from paretune.tuning._tune import RUNS, Candidate, Tuned, candidate_of, run_best, tune

__all__ = ["RUNS", "Candidate", "OpenRecipe", "Tuned", "candidate_of", "read_open", "run_best", "tune"]
