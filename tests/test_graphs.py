"""A graph as JSON: built again it computes the same, without its class or the exporter; it is data, not code."""

import collections
import json
import math
import subprocess
import sys
import typing
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from paretune import prune
from paretune.checkpoint import State
from paretune.cuts import Cuts, replay
from paretune.errors import SurgeryError
from paretune.graphs import _decode, _encode, from_json, module_over, to_json


def through_json(value):
    return json.loads(json.dumps(value))


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.floats(),
    st.sampled_from([torch.float16, torch.int64, torch.strided, torch.channels_last, torch.device("cpu")]),
)  # fmt: skip
KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.none())
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.text(), inner),
        st.dictionaries(KEYS, inner),
    ),
    max_leaves=12,
)


def alike(a, b):
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


@given(VALUES)
def test_arguments_of_nodes_survive_json_with_their_types(value):
    assert alike(value, _decode(through_json(_encode(value)), {}))


def test_an_argument_that_is_no_data_is_refused():
    with pytest.raises(SurgeryError, match="an argument of type object in the graph cannot be stored"):
        _encode([object()])


class Net(nn.Module):
    """Batch norm, dropout, a buffer, a constant and inputs by keyword."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.drop, self.b = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.register_buffer("shift", torch.linspace(-1, 1, 8), persistent=False)

    def forward(self, x, *, scale=1.0):
        y = F.relu(self.norm(self.a(x)) + self.shift) * torch.arange(1, 9)
        return {"out": self.b(self.drop(y)) * scale, "clipped": x.clamp(max=float("inf"))[:, :1]}


EXAMPLE = {"x": torch.randn(4, 5, generator=torch.Generator().manual_seed(0))}


def as_graph(model, example, **how):
    pruned = prune.channels(model, example, form="graph", **(how or {"ratio": 0.4}))
    assert pruned.cuts.form == "graph"
    return pruned


def test_a_graph_over_the_models_own_tensors():
    model = Net().eval()
    pruned = as_graph(model, EXAMPLE)
    cuts = Cuts.from_json(through_json(pruned.cuts.to_json()))
    assert cuts.graph == pruned.cuts.graph
    fresh = Net()
    again = replay(fresh, cuts)
    assert again.a.weight is fresh.a.weight and again.norm is fresh.norm and again.a.weight.shape == (5, 5)
    assert set(again.state_dict()) == set(model.state_dict()) and set(again.state_dict()) == set(
        pruned.model.state_dict()
    )
    for key, value in pruned.model.eval()(**EXAMPLE).items():
        assert torch.equal(again.eval()(**EXAMPLE)[key], value)
    assert to_json(again, [*model.state_dict(), "shift", "norm"]) == [*cuts.graph]  # once more gives the same


def test_it_trains_as_the_model_does():
    pruned = as_graph(Net(), EXAMPLE).model.train()
    before = pruned.norm.running_mean.clone()
    torch.manual_seed(1)
    first = pruned(**EXAMPLE)["out"]
    assert not torch.equal(first, pruned(**EXAMPLE)["out"])  # dropout draws
    assert not torch.equal(pruned.norm.running_mean, before)  # batch norm learns its statistics
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.parameters())
    pruned.eval()
    assert torch.equal(pruned(**EXAMPLE)["out"], pruned(**EXAMPLE)["out"])


class Pair(typing.NamedTuple):
    first: torch.Tensor
    rest: typing.Any


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


torch.export.register_dataclass(Output)
OUTPUTS = {
    "tuple": lambda y: (y, y + 1),
    "list": lambda y: [y, [y + 1]],
    "dict": lambda y: {"a": y, "b": {"c": y + 1}},
    "keys that are numbers": lambda y: {0: y, 3: y + 1},
    "ordered dict": lambda y: collections.OrderedDict([("z", y), ("a", y + 1)]),
    "ordered by numbers": lambda y: collections.OrderedDict([(2, y), (1, y + 1)]),
    "named tuple": lambda y: Pair(y, {"k": y + 1}),
    "dataclass": lambda y: {"out": Output(y, y + 1)},
    "names that are none of an argument": lambda y: collections.OrderedDict([("0", y), ("class", y), ("a-b", y)]),
    "none and numbers": lambda y: (y, None, 3, 1.5, "name", True),
}


class Returning(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.wrap = nn.Linear(5, 8), nn.Linear(8, 3), wrap

    def forward(self, x):
        return self.wrap(self.b(self.a(x)))


def same_structure(a, b):
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape
    if isinstance(a, Output):
        return type(b) is Output and same_structure(vars(a), vars(b))
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same_structure(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_structure, a, b))
    return a == b and type(a) is type(b)


@pytest.mark.parametrize("wrap", OUTPUTS)
def test_what_the_caller_gets_has_the_structure_that_it_had(wrap):
    model, x = Returning(OUTPUTS[wrap]), torch.randn(2, 5)
    pruned = as_graph(model, x)
    again = replay(Returning(OUTPUTS[wrap]), Cuts.from_json(through_json(pruned.cuts.to_json())))
    for batch in (1, 3):
        x = torch.randn(batch, 5)
        assert same_structure(model(x), again(x)) and len(pruned.notes) == 1


class Opaque:
    def __init__(self, tensor):
        self.tensor = tensor


torch.utils._pytree.register_pytree_node(
    Opaque, lambda o: ([o.tensor], None), lambda v, _: Opaque(*v), serialized_type_name="tests.Opaque"
)


def test_what_a_graph_cannot_build_is_said():
    pruned = as_graph(Returning(lambda y: [Opaque(y)]), torch.randn(2, 5))
    assert pruned.notes[-1] == "it returns the tensors of Opaque in a tuple: a graph cannot build that"


FRESH = """
import sys, torch
from pathlib import Path
from paretune.checkpoint import State
from paretune.graphs import from_json
state = State.load(Path(sys.argv[1]))
tensors = state.tensors
model = torch.nn.Module()  # of the class nothing is left but the names of its tensors
for name in ("a", "b"):
    model.add_module(name, torch.nn.Module())
    for leaf in ("weight", "bias"):
        model.get_submodule(name).register_parameter(leaf, torch.nn.Parameter(tensors[f"{name}.{leaf}"]))
model.norm = torch.nn.BatchNorm1d(len(tensors["norm.weight"]))
model.norm.load_state_dict({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("norm.")})
model.shift = tensors["shift"]
graph = from_json(model, list(state.cuts[0].graph)).eval()
# tensors of a file lie elsewhere in memory, and with that sums may be rounded otherwise
torch.testing.assert_close(graph(x=tensors["x"])["out"], tensors["expected"], rtol=0, atol=1e-6)
assert not [name for name in sys.modules if name.startswith(("test", "paretune.prune", "torch.export._trace"))]
print("same")
"""


def test_a_fresh_process_needs_neither_the_class_nor_the_exporter(tmp_path):
    pruned = as_graph(Net().eval(), EXAMPLE)
    tensors = dict(pruned.model.state_dict())
    tensors |= {
        "shift": pruned.model.shift,
        "expected": pruned.model(**EXAMPLE)["out"].detach(),
        "x": EXAMPLE["x"],
    }
    State(tensors, (pruned.cuts,)).save(tmp_path / "graph.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "graph.safetensors")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize("target", ["os:system", "subprocess:Popen", "builtins:eval", "paretune.cuts:replay"])
def test_a_manifest_names_operators_and_kinds_of_output_and_no_other_code(target):
    nodes = [
        {"name": "x", "op": "call_function", "target": target},
        {"name": "output", "op": "output", "args": [None]},
    ]
    with pytest.raises(SurgeryError, match=f"names '{target}', which is no kind of output"):
        from_json(nn.Module(), nodes)


ONE = {"dtype": "int64", "shape": [], "data": [1]}
X = {"name": "x", "op": "placeholder", "target": "x"}
RUN = "__import__('os').system('false')"


def call_of(target, *args, **kwargs):
    return {"name": "y", "op": "call_function", "target": target, "args": list(args), "kwargs": kwargs}


@pytest.mark.parametrize(
    "node",
    [
        {"name": "x", "op": "placeholder", "target": f"x={RUN}"},  # torch.fx writes all of these into source code
        {"name": "x", "op": "placeholder", "target": "class"},
        {"name": "x", "op": "get_attr", "target": f'a", {RUN}, "', "value": ONE},
        {"name": "x", "op": "call_module", "target": f'a", {RUN}, "', "dropout": 0.5},
        {"name": "x", "op": "call_method", "target": "system", "args": [{"torch": "os"}, "false"]},
        call_of("aten.relu.default", 1, **{f"a={RUN},b": 1}),
        call_of("aten.relu.default", {"torch": "os"}),
        call_of("aten.relu.default", {"other": "float32"}),
        call_of("getattr", {"node": "x"}, "__class__"),
        call_of("aten.from_file.default", "a_file", True, 4),
        call_of("load_library.__call__.__call__", "a_library"),
        call_of("aten.relu"),
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_holds_nothing_that_python_would_run(node):
    with pytest.raises(SurgeryError, match="which no graph has: it was not written by paretune"):
        from_json(nn.Module(), [X, node])


def test_an_operator_that_is_not_registered_is_named():
    with pytest.raises(
        SurgeryError, match=r"operator 'no_library\.nms\.default', which is not registered here: import"
    ):
        from_json(nn.Module(), [X, call_of("no_library.nms.default")])


@pytest.mark.parametrize("target", ["this:Output", "no_such_module:Output", "collections:NoSuchClass"])
def test_a_kind_of_output_that_is_not_imported_is_named(target):
    with pytest.raises(
        SurgeryError, match="is not imported here: import what defines it before the cuts are replayed"
    ):
        from_json(nn.Module(), [{"name": "x", "op": "call_function", "target": target}])


def test_tensors_stand_under_their_own_names_and_stay_the_same_objects():
    weight, buffer, norm = nn.Parameter(torch.ones(2)), torch.zeros(2), nn.LayerNorm(2)
    graph = fx.Graph()
    x = graph.placeholder("x")
    x = graph.call_function(torch.add, (x, graph.get_attr("a.weight")))
    x = graph.call_function(torch.add, (x, graph.get_attr("a.inner.buffer")))
    graph.output(graph.call_module("a.norm", (x,)))
    module = module_over({"a.weight": weight, "a.inner.buffer": buffer, "a.norm": norm}, graph)
    assert module.a.weight is weight and module.a.inner.buffer is buffer and module.a.norm is norm
    assert set(module.state_dict()) == {"a.weight", "a.norm.weight", "a.norm.bias"}  # the buffer is not persistent
    assert torch.equal(module(torch.tensor([1.0, 3.0])), norm(torch.tensor([2.0, 4.0])))


def test_a_buffer_that_the_model_saves_is_saved_with_its_graph():
    class Centred(nn.Module):
        """What it takes away is no parameter, and not what the factory makes."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
            self.register_buffer("centre", torch.zeros(5))
            self.register_buffer("scale", torch.full((8,), 2.0), persistent=False)

        def forward(self, x):
            return self.b(self.a(x - self.centre) * self.scale)

    model, x = Centred().eval(), torch.randn(4, 5)
    model.centre += 1.0
    pruned = as_graph(model, x)
    assert set(pruned.model.state_dict()) == {"a.weight", "a.bias", "b.weight", "b.bias", "centre"}
    again = replay(Centred().eval(), pruned.cuts)
    again.load_state_dict(pruned.model.state_dict())
    torch.testing.assert_close(again(x), pruned.model(x), rtol=0, atol=0)


class Places(nn.Module):
    """Makes a buffer that is not saved when it first runs, for the size of its input (ConViT)."""

    def __init__(self, lazy):
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)
        self.register_buffer("places", torch.zeros(1, 1) if lazy else torch.zeros(4, 1), persistent=False)

    def forward(self, x):
        if not self.places.any():
            self.places = torch.arange(1.0, x.shape[1] + 1)[:, None]
        return self.b(self.a(x).view(x.shape[0], x.shape[1], 6) * self.places)


@pytest.mark.parametrize("lazy", [True, False])  # of another shape, and of the same
def test_a_buffer_that_a_model_makes_when_it_first_runs_is_asked_for(lazy):
    model, x = Places(lazy), torch.randn(2, 4, 3)
    expected = model(x)
    pruned = prune.channels(model, x, ratio=0.5)
    assert pruned.cuts.form == "graph" and expected.shape == pruned.model(x).shape
    cuts = Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json())))
    with pytest.raises(SurgeryError, match=r"'places' is not saved with the weights.* run once before a replay"):
        prune.replay(Places(lazy), cuts)
    fresh = Places(lazy)
    fresh(x)
    replayed = prune.replay(fresh, cuts)
    replayed.load_state_dict(pruned.model.state_dict())
    assert torch.equal(replayed(x), pruned.model(x))
