"""Folding: a weight that is computed from parameters becomes a parameter, before anything is cut.

Weight norm and other parametrizations, masks of torch.nn.utils.prune, and weights that a model's forward
standardises, are functions of parameters alone: what they give is the weight that inference uses. Once folded,
that weight can be cut along any axis, where the norm of what is left would differ. A replay of the cuts folds
again; the notes of the result say so.
"""

from __future__ import annotations

import operator
from itertools import chain, count
from typing import Any

import numpy as np
from torch import fx, nn

from paretune.cuts import fold_parametrizations, parametrized
from paretune.graphs import folded_weight, to_json
from paretune.prune._capture.capture import Capture
from paretune.prune._capture.given import copied
from paretune.prune._capture.graph import Builder, Numbers
from paretune.prune._couplings.couplings import Couplings
from paretune.prune._couplings.operators import operator_of
from paretune.prune._surgery.rewrite import rewrite

_WEIGHTED = ("linear", *(f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)))
_REARRANGING = (
    *("view", "reshape", "reshape_as", "flatten", "unflatten", "transpose", "permute", "t", "numpy_T", "mT"),
    *("alias", "detach", "contiguous", "clone", "to", "cat", "stack", "slice", "select", "squeeze", "unsqueeze"),
    *("chunk", "split", "split_with_sizes", "unbind", "expand"),
)
"""What leaves every number of a parameter as it is: the rules follow it, and nothing needs to be folded."""


def without_parametrizations(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model, or a copy with its parametrizations folded, and the modules that had any."""
    names = parametrized(model)
    if not names:
        return model, ()
    return fold_parametrizations(copied(model), names), names


def computed_weights(captured: Capture) -> list[fx.Node]:
    """Return the nodes that compute a layer's weight from parameters alone, other than by re-arranging them."""
    placeholders = {node.name: node for node in captured.program.graph.nodes if node.op == "placeholder"}
    inputs = {placeholders[name] for name in captured.program.graph_signature.user_inputs if name in placeholders}
    computed: dict[fx.Node, bool] = {}
    """Nodes that depend on no input -> whether they are more than a parameter in another order."""
    learned: set[fx.Node] = set()
    """Those of them that depend on a parameter: a fixed filter is a constant as it is."""
    for node in captured.program.graph.nodes:
        if node.op == "placeholder" and node not in inputs:
            computed[node] = False
            learned |= {node} if node.name in captured.program.graph_signature.inputs_to_parameters else set()
        elif node.op == "call_function" and all(source in computed for source in node.all_input_nodes):
            changes = any(computed[source] for source in node.all_input_nodes)
            moved = operator_of(node) in _REARRANGING or node.target is operator.getitem
            computed[node] = changes or not moved
            learned |= {node} if not learned.isdisjoint(node.all_input_nodes) else set()
    weights = [
        weight
        for node in captured.program.graph.nodes
        if operator_of(node) in _WEIGHTED
        and isinstance(weight := node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None), fx.Node)
        and computed.get(weight)
        and weight in learned
    ]
    return list(dict.fromkeys(weights))


def fold_computed(
    model: nn.Module, captured: Capture, state: Couplings, numbers: Numbers | None, weights: list[fx.Node]
) -> tuple[fx.GraphModule, list[dict[str, Any]]]:
    """Return the captured graph with these weights as parameters, and its nodes as a manifest stores them."""
    known = own_names(model)
    folded: dict[fx.Node, tuple[str, nn.Parameter]] = {}
    recipes: dict[str, list[dict[str, Any]]] = {}
    for weight in weights:
        recipe, parameters = _recipe(model, captured, weight)
        value = folded_weight(recipe)
        alike = [name for name, tensor in parameters.items() if tensor.shape == value.shape]
        own = len(alike) == 1 and _alone(weight) and alike[0] not in recipes
        name = alike[0] if own else _free(f"{next(iter(parameters))}_folded", {*known, *recipes})
        folded[weight] = name, value
        recipes[name] = to_json(recipe, known)
    everything = np.ones(state.units.count, bool)
    module = rewrite(model, captured, state, everything, numbers, folded=folded)
    nodes = to_json(module, [*known, *recipes])
    for node in nodes:
        if node["op"] == "get_attr" and node["target"] in recipes:
            node["folded"] = recipes[node["target"]]
    return module, nodes


def _alone(weight: fx.Node) -> bool:
    """Tell whether what a weight is computed from is used for nothing else: its name is free then."""
    needed = _needed(weight)
    return all(user in needed for node in needed - {weight} for user in node.users)


def _free(name: str, taken: set[str]) -> str:
    """Return a name that is not taken: this one, or with a number behind it."""
    return next(each for each in chain((name,), (f"{name}_{n}" for n in count(2))) if each not in taken)


def _needed(weight: fx.Node) -> set[fx.Node]:
    """Return a node and all that it is computed from."""
    needed, pending = {weight}, [weight]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in needed:
                needed.add(source)
                pending.append(source)
    return needed


def _recipe(
    model: nn.Module, captured: Capture, weight: fx.Node
) -> tuple[fx.GraphModule, dict[str, nn.Parameter]]:
    """Return a module without inputs that computes a weight, and the parameters that it is computed from."""
    needed = _needed(weight)
    builder = Builder(model, captured, inputs=False)
    for node in captured.program.graph.nodes:
        if node in needed and node.op == "call_function":
            builder.add(node, node.target, node.args, node.kwargs)
    module = builder.finish(builder.copies[weight])
    parameters = {name: tensor for name, tensor in module.named_parameters() if tensor.is_floating_point()}
    return module, parameters


def own_names(model: nn.Module) -> list[str]:
    """Return the names of all tensors and modules of a model."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return [name for name, _ in tensors] + [name for name, _ in model.named_modules()]
