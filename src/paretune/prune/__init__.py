"""Structural pruning: whole channels go, and the model is smaller on every runtime.

`channels` prunes a copy of a model in one call. `analyze` says what can be pruned and why the rest cannot,
`select` chooses, `predict` says what a choice would cost, `cut` cuts; `replay` does a manifest of cuts again on a
fresh model. `Channels` is the recipe's step `prune.channels`; the scores are in `paretune.prune.scores`.
"""

from paretune.cuts import replay
from paretune.prune._activations.activations import Activations, Linearised, activations
from paretune.prune._activations.ranges import ActivationRange, Ranged, activation_range
from paretune.prune._analysis import Analysis, Layer, analyze
from paretune.prune._channels import Channels, channels
from paretune.prune._couplings.groups import STRUCTURES, Group
from paretune.prune._cut import Prediction, Pruned, Selection, cut, predict
from paretune.prune._depth.blocks import Blocks, blocks
from paretune.prune._iterative.iterative import Iterated, Iterative, iterative
from paretune.prune._learned.gates import Trajectory
from paretune.prune._learned.learned import Learned, Weighed, learned
from paretune.prune._n_m import n_m
from paretune.prune._neighbours.neighbours import Merged, Neighbours, neighbours
from paretune.prune._neighbours.tree import Branch, removal_tree
from paretune.prune._regular.fista import Solution, fista
from paretune.prune._regular.greg import Greg, greg
from paretune.prune._regular.group_lasso import GroupLasso, group_lasso
from paretune.prune._regular.path import PathPoint, SparsePath, sparse_path
from paretune.prune._regular.sparse import Sparse, sparse
from paretune.prune._repair.repair import Repaired, repair
from paretune.prune._resolution import Resolution, resolution
from paretune.prune._selection.selection import select
from paretune.prune._sensitivity import GroupSensitivity, Sensitivity, SensitivityPoint, sensitivity
from paretune.prune._sparse.gradual import Gradual, Trained, gradual
from paretune.prune._sparse.weights import Weights, weights
from paretune.prune._structures import embedding, experts, heads, neurons

__all__ = [
    "STRUCTURES",
    "ActivationRange",
    "Activations",
    "Analysis",
    "Blocks",
    "Branch",
    "Channels",
    "Gradual",
    "Greg",
    "Group",
    "GroupLasso",
    "GroupSensitivity",
    "Iterated",
    "Iterative",
    "Layer",
    "Learned",
    "Linearised",
    "Merged",
    "Neighbours",
    "PathPoint",
    "Prediction",
    "Pruned",
    "Ranged",
    "Repaired",
    "Resolution",
    "Selection",
    "Sensitivity",
    "SensitivityPoint",
    "Solution",
    "Sparse",
    "SparsePath",
    "Trained",
    "Trajectory",
    "Weighed",
    "Weights",
    "activation_range",
    "activations",
    "analyze",
    "blocks",
    "channels",
    "cut",
    "embedding",
    "experts",
    "fista",
    "gradual",
    "greg",
    "group_lasso",
    "heads",
    "iterative",
    "learned",
    "n_m",
    "neighbours",
    "neurons",
    "predict",
    "removal_tree",
    "repair",
    "replay",
    "resolution",
    "select",
    "sensitivity",
    "sparse",
    "sparse_path",
    "weights",
]
