"""Whole residual blocks: found in any shape in which they are written, ordered by known scores, and replayed."""

import copy
import json
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from paretune import prune
from paretune._skip import Skip
from paretune.checkpoint import State
from paretune.cuts import Attribute, Cuts, Removed, replay
from paretune.data import call, tensors_of
from paretune.errors import InfeasibleError, InputError, RunError, SurgeryError
from paretune.export import export_onnx, run_file
from paretune.prune._depth.block_scores import influence
from paretune.prune._depth.residual import find_blocks
from paretune.recipe import Context, parse_recipe
from paretune.task import Task
from paretune.zoo import resnet_cifar

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def removed(pruned):
    return [gone.module for gone in pruned.cuts.removed]


def outputs(model, example):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        found = tensors_of(call(model, example))
    for module, mode in modes:
        module.training = mode
    return found


def same(a, b, example):
    return all(torch.equal(x, y) for x, y in zip(outputs(a, example), outputs(b, example), strict=True))


def in_order(weight):
    """Score all channels alike: blocks go in the order in which they run."""
    return torch.ones(len(weight))


def by_hand(model, names, forward=lambda x, *args, **kwargs: x):
    """Return a copy in which the forward of these modules is replaced."""
    model = copy.deepcopy(model)
    for name in names:
        model.get_submodule(name).forward = forward
    return model


def check(model, example, forward=lambda x, *args, **kwargs: x, **how):
    """Prune, and hold the result against modules replaced by hand, a replay, a State, and a training step."""
    before = copy.deepcopy(model.state_dict())
    pruned = prune.blocks(model, example, **how)
    gone = removed(pruned)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert gone and same(pruned.model, by_hand(model, gone, forward), example)
    stay = [name for name in before if not any(name.startswith(block + ".") for block in gone)]
    assert list(pruned.model.state_dict()) == stay
    assert pruned.after["params"] == sum(parameter.numel() for parameter in pruned.model.parameters())
    cuts = Cuts.from_json(json.loads(json.dumps(pruned.cuts.to_json())))
    again = State(pruned.model.state_dict(), (cuts,)).onto(copy.deepcopy(model))
    assert same(again, pruned.model, example)
    pruned.model.train()
    tensors_of(call(pruned.model, example))[0].square().mean().backward()
    pruned.model.eval()
    assert any(parameter.grad is not None for parameter in pruned.model.parameters())
    return pruned


# --- blocks as they are written


class Feed(nn.Module):
    """The input plus a feed-forward branch: 2 * 8 * hidden multiply-accumulates for a row of 8."""

    def __init__(self, hidden=16, width=8):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(functional.relu(self.up(x)))


def feeds(*hidden):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), *[Feed(h) for h in hidden], nn.Linear(8, 3))


class Attention(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask=None):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = q @ k.transpose(1, 2) / 8**0.5
        weights = (weights if mask is None else weights + mask).softmax(-1)
        return self.out(weights @ v), weights


class AddNorm(nn.Module):
    """As in BERT: what is added to comes second, so that it is no residual block itself."""

    def __init__(self, inputs, width=8):
        super().__init__()
        self.dense, self.norm = nn.Linear(inputs, width), nn.LayerNorm(width)

    def forward(self, hidden_states, input_tensor):
        return self.norm(functional.dropout(self.dense(hidden_states), 0.1, self.training) + input_tensor)


class PostNormAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.output = Attention(), AddNorm(8)

    def forward(self, hidden_states, mask=None):
        attended, weights = self.attention(hidden_states, mask)
        return self.output(attended, hidden_states), weights


class PostNormLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.up, self.output = PostNormAttention(), nn.Linear(8, 16), AddNorm(16)

    def forward(self, hidden_states, mask=None):
        attended, weights = self.attention(hidden_states=hidden_states, mask=mask)
        return self.output(functional.gelu(self.up(attended)), attended), weights


class PostNorm(nn.Module):
    """An encoder of post-norm layers that return tuples and are called by keyword."""

    def __init__(self, layers=3):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.head = nn.ModuleList(PostNormLayer() for _ in range(layers)), nn.Linear(8, 3)

    def forward(self, x, mask=None):
        for layer in self.layers:
            x = layer(mask=mask, hidden_states=x)[0]
        return self.head(x)


def first_of_two(hidden_states, mask=None):
    return hidden_states, None


def test_of_a_resnet_the_blocks_that_keep_the_shape():
    model = resnet_cifar(20).eval()
    pruned = check(model, IMAGE, count=3)
    assert len(removed(pruned)) == 3
    refused = {name: reason for name, reason, _ in pruned.unprunable}
    assert refused["layer2.0"] == "it turns (2, 16, 32, 32) into (2, 32, 16, 16)" and len(refused) == 2
    every = prune.blocks(model, IMAGE, names=["layer*"]).cuts.removed
    assert len(every) == 6  # of seven that keep the shape one stays
    assert all(gone.structure == "" and gone.items == ("x",) for gone in every)


def test_a_stack_is_no_block_and_halves_are_offered_where_asked_for():
    model = PostNorm()
    assert removed(check(model, TOKENS, first_of_two, count=1, score=in_order)) == ["layers.0"]
    inner = check(model, TOKENS, first_of_two, count=1, inner=True, score=in_order)
    assert removed(inner) == ["layers.0.attention"]  # the other half has no module of its own
    assert removed(check(model, TOKENS, first_of_two, names=["layers.1", "layers.1.attention"])) == ["layers.1"]


def test_a_block_of_halves_is_one_block():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.norm = Attention(), nn.LayerNorm(8)

        def forward(self, x):
            return x + self.attention(self.norm(x))[0]

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.halves = nn.ModuleList([Half(), Feed()])

        def forward(self, x):
            for half in self.halves:
                x = half(x)
            return x

    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(Layer(), Layer()), nn.Linear(8, 3))
    assert removed(check(model, TOKENS, names=["*"], score=in_order)) == ["1.0"]  # of two one stays
    halves = prune.blocks(model, TOKENS, count=3, inner=True, score=in_order)
    assert removed(halves) == ["1.0.halves.0", "1.0.halves.1", "1.1.halves.0"]


def test_a_sequential_of_unlike_blocks_is_a_stack():
    class Other(Feed):
        pass

    stages = [nn.Sequential(Feed(), Other()) for _ in range(2)]
    found = find_blocks(nn.Sequential(*stages, nn.Linear(8, 3)), TOKENS)
    assert [block.name for block in found.blocks] == ["0.0", "0.1", "1.0", "1.1"]


def test_what_runs_one_block_is_not_the_block():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.norm = Feed(), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(self.block(x))

    model = nn.ModuleDict({"a": Wrapped(), "b": Wrapped()})
    model.forward = lambda x: model["b"](model["a"](x))
    assert [block.name for block in find_blocks(model, TOKENS).blocks] == ["a.block", "b.block"]


def test_a_network_around_its_blocks_is_not_the_block():
    class Net(nn.Module):
        """The whole network predicts what is added to its input."""

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 8), Feed(), Feed(), nn.Linear(8, 8))

        def forward(self, x):
            return x + self.body(x)

    assert removed(check(nn.Sequential(Net()), TOKENS, count=1, score=in_order)) == ["0.body.1"]


def test_windows_that_come_back_in_order_are_followed_and_others_are_not():
    class Windows(nn.Module):
        """(batch, 8, 8, width) -> windows of 4, attention in each -> back, or, by mistake, not back."""

        def __init__(self, back):
            super().__init__()
            self.attention, self.back = Attention(), back

        def forward(self, x):
            b, h, w, c = x.shape
            x = x.view(b, 2, h // 2, 2, w // 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, h * w // 4, c)
            x = x + self.attention(x)[0]
            x = x.view(b, 2, 2, h // 2, w // 2, c)
            if self.back:
                x = x.permute(0, 1, 3, 2, 4, 5)
            return x.reshape(b, h, w, c)

    model = nn.Sequential(nn.Linear(8, 8), Windows(True), Windows(False), Windows(True), nn.Linear(8, 3))
    found = find_blocks(model, torch.randn(1, 8, 8, 8))
    assert [block.name for block in found.blocks] == ["1", "3"]
    (name, reason, _), *_ = found.unprunable
    assert name == "2" and reason == "what it adds to is not its input unchanged"
    assert removed(check(model, torch.randn(1, 8, 8, 8), count=1, score=in_order)) == ["1"]


def test_what_only_looks_residual_is_no_block():
    class Position(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.scale = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.scale(self.position)  # what is added does not come from x

    class Add(nn.Module):
        def forward(self, x, other):
            return x + other

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return (x + self.linear(x)) + x  # twice its input, and something

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return x * self.linear(x).sigmoid()

    class Response(nn.Module):
        """As in ConvNeXt V2: an input plus its rescaled self, without a multiply-accumulate."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(8))

        def forward(self, x):
            return x + self.scale * (x * x.norm(dim=1, keepdim=True))

    class Centred(nn.Module):
        """A norm written out."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 1)

        def forward(self, x):
            return x - self.linear(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.add, self.gate, self.twice = Position(), Add(), Gate(), Twice()
            self.linear, self.block = nn.Linear(8, 8), Feed()
            self.response, self.centred = Response(), Centred()

        def forward(self, x):
            x = self.response(self.centred(self.twice(self.gate(self.position(x)))))
            return self.block(self.add(x, self.linear(x)))

    found = find_blocks(Net(), TOKENS)
    assert [block.name for block in found.blocks] == ["block"]


def test_a_residual_sum_outside_of_modules_is_said_with_its_line():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.first(x)
            x = x + self.second(x.relu())
            return self.head(x)

    with pytest.raises(
        InfeasibleError, match=r"Net: a residual sum in its own forward, .*x = x \+ self.second"
    ) as e:
        prune.blocks(Net(), TOKENS, ratio=0.5)
    assert "the block as a module of its own" in str(e.value) and e.value.exit_code == 3


def test_modules_that_run_twice_or_have_two_names_stay():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.alias = Feed(), Feed()
            self.other = self.alias
            self.free = Feed()

        def forward(self, x):
            return self.free(self.other(self.block(self.block(x))))

    pruned = prune.blocks(nn.Sequential(Shared(), nn.Linear(8, 2)), TOKENS, ratio=0.5)
    reasons = {name: reason for name, reason, _ in pruned.unprunable}
    assert "runs 2 times" in reasons["0.block"] and "two names" in reasons["0.alias"]


# --- what blocks return, and what the code around them asks for


@dataclass
class Output:
    hidden: torch.Tensor
    weights: torch.Tensor | None = None


torch.export.register_dataclass(Output, serialized_type_name="tests.prune.test_blocks.Output")


Row = namedtuple("Row", "y size bias")


class Returning(nn.Module):
    """A block that hands on its input with something added, in the structure that `wrap` makes."""

    def __init__(self, wrap):
        super().__init__()
        self.linear, self.wrap, self.kind = nn.Linear(8, 8), wrap, "full"

    def forward(self, x, size=None, bias=None):
        return self.wrap(x + self.linear(x), size, bias)


class Calling(nn.Module):
    """Runs blocks with more than one argument, and reads all that they return."""

    def __init__(self, wrap, take):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.take = nn.ModuleList(Returning(wrap) for _ in range(2)), take

    def forward(self, x):
        size, bias = (5, 8), x.mean()
        for layer in self.layers:
            assert layer.kind == "full"
            x, size, bias = self.take(layer(x, size=size, bias=bias), size, bias)
        return x.view(-1, *size) * bias


@pytest.mark.parametrize(
    ("wrap", "take"),
    [
        (lambda y, size, bias: y, lambda out, size, bias: (out, size, bias)),
        (lambda y, size, bias: (y, size, bias), lambda out, size, bias: out),
        (lambda y, size, bias: [y, (5, 8), bias], lambda out, size, bias: out),
        (lambda y, size, bias: (y, None, y.sum()), lambda out, size, bias: (out[0], size, bias)),
        (lambda y, size, bias: {"y": y, "bias": bias}, lambda out, size, bias: (out["y"], size, out["bias"])),
        (lambda y, size, bias: Output(y, bias), lambda out, size, bias: (out.hidden, size, out.weights)),
    ],
    ids=["tensor", "tuple", "list", "unread item", "dict", "dataclass"],
)
def test_the_caller_gets_the_structure_that_it_expects(wrap, take):
    def forward(x, size=None, bias=None):
        return wrap(x, size, bias)

    pruned = check(Calling(wrap, take), TOKENS, forward, names=["layers.1"])
    assert removed(pruned) == ["layers.1"] and pruned.model.layers[1].kind == "full"


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (lambda y, size, bias: (y, size, y.mean()), "reads item 2 of what it returns, which it makes itself"),
        (lambda y, size, bias: (y, object(), bias), "returns a object that it makes itself"),
        (lambda y, size, bias: Row(y, size, bias), "cannot be written down: .*namedtuple"),
    ],
)
def test_a_block_whose_other_outputs_nothing_can_stand_in_for_stays(wrap, reason):
    class Net(Calling):
        def forward(self, x):
            size, bias = (5, 8), x.mean()
            for layer in self.layers:
                x, _, bias = layer(x, size, bias)
                x = x * bias
            return x

    with pytest.raises(InfeasibleError, match="layers.0: .*" + reason):
        prune.blocks(Net(wrap, None), TOKENS, count=1)
    with pytest.raises(InputError, match=r"names: '1.layers.0' cannot be removed: .*" + reason):
        prune.blocks(nn.Sequential(Feed(), Net(wrap, None)), TOKENS, names=["1.layers.0"])


def test_a_bias_that_the_first_block_makes_and_the_others_hand_on():
    class Layer(nn.Module):
        """As in T5: the first layer makes the bias of positions, and every layer returns it."""

        def __init__(self, makes):
            super().__init__()
            self.attention, self.norm = Attention(), nn.LayerNorm(8)
            self.bias = nn.Parameter(torch.randn(5, 5)) if makes else None

        def forward(self, hidden_states, position_bias=None):
            if position_bias is None:
                position_bias = self.bias * 2
            added, weights = self.attention(self.norm(hidden_states), position_bias)
            return (hidden_states + added, position_bias, weights)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Layer(i == 0) for i in range(3))

        def forward(self, x):
            bias = None
            for layer in self.layers:
                x, bias = layer(x, position_bias=bias)[:2]
            return x

    pruned = check(Net(), TOKENS, lambda x, position_bias=None: (x, position_bias, None), count=1)
    assert pruned.cuts.removed[0].items == ("hidden_states", "position_bias", None)
    assert [name for name, *_ in pruned.unprunable] == ["layers.0"]


def test_code_that_asks_a_block_for_its_parts_keeps_that_block():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3).eval()
    pruned = check(model, TOKENS, lambda x, **kwargs: x, count=1)
    ((name, reason, _),) = pruned.unprunable  # nn.TransformerEncoder reads layers[0].self_attn
    assert name == "layers.0" and "does not run without it" in reason
    assert "the code around a removed block reads its attribute 'self_attn'" in reason
    assert removed(pruned)[0] in ("layers.1", "layers.2")


class Cache:
    """Keys by layer, as a Hugging Face cache: its length is that of the layer of index 0."""

    def __init__(self):
        self.layers = {}

    def update(self, new, index):
        self.layers[index] = torch.cat([self.layers[index], new], 1) if index in self.layers else new
        return self.layers[index]

    def length(self):
        return self.layers[0].shape[1] if 0 in self.layers else 0


class CachedLayer(nn.Module):
    def __init__(self, index, scaled=False):
        super().__init__()
        self.layer_idx, self.linear, self.scaled = index, nn.Linear(8, 8), scaled

    def forward(self, x, cache=None):
        keys = x if cache is None else cache.update(x, self.layer_idx)
        causal = torch.ones(x.shape[1], keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - x.shape[1])
        weights = (x @ keys.transpose(1, 2)).masked_fill(~causal, -torch.inf).softmax(-1)
        return x + self.linear(weights @ keys) / (self.layer_idx + 1 if self.scaled else 1)


class Decoder(nn.Module):
    def __init__(self, kinds=None, scaled=False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(CachedLayer(i, scaled) for i in range(3))
        self.position = nn.Parameter(torch.randn(5, 8))
        self.config = type("Config", (), {"layer_types": kinds})()

    def forward(self, x, cache=None):
        start = 0 if cache is None else cache.length()
        x = x + self.position[start : start + x.shape[1]]
        for layer in self.layers:
            x = layer(x, cache)
        return x


def step_by_step(model, tokens):
    cache = Cache()
    with torch.no_grad():
        return torch.cat([model(tokens[:, i : i + 1], cache) for i in range(tokens.shape[1])], 1)


@pytest.mark.parametrize(
    ("kinds", "takes_over"), [(None, 1), (["full", "full", "full"], 1), (["full", "sliding", "full"], 2)]
)
def test_a_cache_keeps_counting_when_the_layer_it_counts_on_goes(kinds, takes_over):
    model = Decoder(kinds).eval()
    torch.testing.assert_close(step_by_step(model, TOKENS), model(TOKENS))
    pruned = check(model, TOKENS, names=["layers.0"])
    assert pruned.cuts.attributes == (Attribute(f"layers.{takes_over}", "layer_idx", takes_over, 0),)
    torch.testing.assert_close(step_by_step(pruned.model, TOKENS), pruned.model(TOKENS))
    naive = by_hand(model, ["layers.0"])
    assert not torch.allclose(step_by_step(naive, TOKENS), naive(TOKENS))  # what the renumbering is for
    assert not prune.blocks(model, TOKENS, names=["layers.1"]).cuts.attributes


@pytest.mark.parametrize("model", [Decoder(["full", "sliding", "sliding"]), Decoder(scaled=True)])
def test_where_no_layer_can_take_over_it_is_said(model):
    pruned = prune.blocks(model, TOKENS, names=["layers.0"])
    assert pruned.cuts.attributes == () and "use_cache=False" in pruned.notes[0]
    assert same(pruned.model, by_hand(model, ["layers.0"]), TOKENS)


def test_train_mode_precision_and_frozen_parameters_are_kept():
    model = resnet_cifar(20).bfloat16().train()
    model.layer3[1].requires_grad_(False)
    pruned = prune.blocks(model, IMAGE.bfloat16(), names=["layer1.0"])
    assert pruned.model.training and pruned.model.layer1[0].training and model.training
    assert pruned.model.conv1.weight.dtype == torch.bfloat16
    assert {n: p.requires_grad for n, p in pruned.model.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters() if not n.startswith("layer1.0.")
    }


KINDS = ("feed", "widen", "gate", "post", "pre", "plain")


@settings(max_examples=25)
@given(st.lists(st.sampled_from(KINDS), min_size=3, max_size=8), st.data())
def test_any_chain_of_modules(kinds, data):
    class Post(Feed):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(super().forward(x).clone()).relu()

    class Pre(Post):
        def forward(self, x):
            return Feed.forward(self, self.norm(x))  # the sum is with what a norm makes of its input

    class Gate(Feed):
        def forward(self, x):
            return x * self.down(self.up(x))

    class Widen(Feed):
        def forward(self, x):
            return torch.cat([x, x + self.down(self.up(x))], -1)[..., 8:]

    make = {"feed": Feed, "post": Post, "pre": Pre, "gate": Gate, "widen": Widen, "plain": lambda: nn.Linear(8, 8)}
    model = nn.Sequential(*[make[kind]() for kind in kinds], nn.Linear(8, 2))
    # a slice of a concatenation hands the sum on too, but that is not followed
    expected = [str(i) for i, kind in enumerate(kinds) if kind in ("feed", "post")]
    assert [block.name for block in find_blocks(model, TOKENS).blocks] == expected
    if len(expected) > 1:
        gone = data.draw(st.lists(st.sampled_from(expected), min_size=1, max_size=len(expected) - 1, unique=True))
        pruned = prune.blocks(model, TOKENS, names=gone)
        short = nn.Sequential(*[module for name, module in model.named_children() if name not in gone])
        assert same(pruned.model, short, TOKENS)


# --- which go


def test_influence_by_hand():
    before = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    after = torch.tensor([[[2.0, 0.0], [1.0, -1.0]]])
    assert influence(before, after).tolist() == pytest.approx(
        [0.0, 1.0]
    )  # each token: the same way, at right angles
    flat = influence(before[:, None], after[:, None])  # of images each sample: (2 + 1 - 1) / (sqrt 3 * sqrt 6)
    assert flat.tolist() == pytest.approx([1 - 2 / 18**0.5])


class Turn(nn.Module):
    """Turns every vector of 2 by an angle, as the input plus a linear branch."""

    def __init__(self, degrees):
        super().__init__()
        self.branch = nn.Linear(2, 2, bias=False)
        angle = torch.deg2rad(torch.tensor(float(degrees)))
        turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        with torch.no_grad():
            self.branch.weight.copy_(turn - torch.eye(2))

    def forward(self, x):
        return x + self.branch(x)


def test_similarity_removes_what_turns_its_input_least():
    model = nn.Sequential(*[Turn(degrees) for degrees in (60, 10, 90, 30)])
    data = torch.randn(64, 3, 2)
    pruned = prune.blocks(model, data[:1], count=2, data=data)  # similarity is the default where there are data
    assert removed(pruned) == ["1", "3"]


def test_inputs_by_keyword_need_no_target():
    class Keyword(nn.Sequential):
        def forward(self, tokens, scale):
            return super().forward(tokens * scale)

    model = Keyword(*[Turn(degrees) for degrees in (60, 10, 90)])
    data = {"tokens": torch.randn(16, 3, 2), "scale": torch.ones(16, 1, 1)}
    example = {name: tensor[:1] for name, tensor in data.items()}
    assert removed(prune.blocks(model, example, count=1, data=data)) == ["1"]
    assert removed(prune.blocks(model, example, count=1, data=data, samples=4, seed=1)) == ["1"]


def test_similarity_is_to_what_entered_before_it_was_changed_in_place():
    class InPlace(Turn):
        def forward(self, x):
            return super().forward(x.relu_())

    model = nn.Sequential(nn.Linear(2, 2, bias=False), InPlace(0), Turn(20))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    data = torch.tensor([[[-1.0, 1.0]]])  # (0, 1) after the activation: 45 degrees away
    assert removed(prune.blocks(model, data, count=1, data=data)) == ["2"]


class Times(nn.Module):
    """x -> factor * x."""

    def __init__(self, factor):
        super().__init__()
        self.branch = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.branch.weight.fill_(factor - 1)

    def forward(self, x):
        return x + self.branch(x)


def test_the_loss_is_measured_again_after_each_removal():
    factors = (1.2, 1 / 1.2, 1.05, 1.15)
    model, x = nn.Sequential(*[Times(factor) for factor in factors]), torch.ones(4, 1)
    data, full = (x, model(x).detach()), 1.05 * 1.15
    alone = [abs(full / factor - full) for factor in factors]
    assert sorted(range(4), key=alone.__getitem__)[:2] == [2, 3]  # what measuring once would remove
    pruned = prune.blocks(model, x, count=2, score="loss", data=data, loss="mse")
    # without 2 the output is 1.15: then 1.15 * 1.2 is nearer to 1.2075 than 1.15 / 1.15, and than 1.15 / 1.2
    assert removed(pruned) == ["1", "2"]
    with pytest.raises(RunError, match="whichever block is skipped"):
        prune.blocks(
            model, x, count=1, score="loss", data=data, loss=lambda output, target: output.sum() * torch.nan
        )


def test_weights_are_compared_among_blocks_of_like_shape():
    model = feeds(16, 16, 4, 4)
    with torch.no_grad():
        for name, scale in (("1", 4.0), ("2", 1.0), ("3", 30.0), ("4", 90.0)):
            for parameter in model.get_submodule(name).parameters():
                parameter.fill_(scale)
    # relative to their pairs' means: 8/5, 2/5 and 1/2, 3/2
    assert removed(prune.blocks(model, TOKENS, count=1, score="l1")) == ["2"]
    assert removed(prune.blocks(model, TOKENS, count=2)) == ["2", "3"]  # l1 is the default where there are no data
    assert removed(prune.blocks(model, TOKENS, count=3)) == ["2", "3", "4"]


def test_ratio_count_protect_and_notes():
    model = feeds(16, 16, 16, 16)
    assert removed(prune.blocks(model, TOKENS, ratio=0.5, score=in_order)) == ["1", "2"]
    assert removed(prune.blocks(model, TOKENS, ratio=0.74, score=in_order)) == ["1", "2"]
    assert removed(prune.blocks(model, TOKENS, ratio=0.5, protect=["1", "2"], score=in_order)) == ["3"]
    none = prune.blocks(model, TOKENS, ratio=0.2)
    assert none.cuts.removed == () and "ratio=0.2 of 4 blocks is none" in none.notes[0]
    every = prune.blocks(model, TOKENS, count=4, score=in_order)
    assert removed(every) == ["1", "2", "3"]
    assert every.notes == ("4 stays: a model keeps at least one of its 4 blocks",)
    assert removed(prune.blocks(model, TOKENS, count=3, protect=["4"])) == [
        "1",
        "2",
        "3",
    ]  # the protected one stays


def test_a_target_of_macs_removes_no_more_than_it_takes():
    model = feeds(4, 32, 8)  # 320, 2560 and 640 multiply-accumulates of 5 tokens, and 440 before and behind
    pruned = prune.blocks(model, TOKENS, macs=1100, score=in_order)
    assert pruned.before["macs"] == 3960 and pruned.after["macs"] == 1080 and removed(pruned) == ["1", "2"]
    assert removed(prune.blocks(model, TOKENS, macs=0.36, score=in_order)) == ["2"]  # with 2 gone 1 comes back
    assert removed(prune.blocks(model, TOKENS, macs="0.8K", score=in_order)) == ["2", "3"]  # 760: 1 stays
    with pytest.raises(InfeasibleError, match=r"macs=0.19 is 752 .* without 2 of its 3 blocks .* 760 of its 3960"):
        prune.blocks(model, TOKENS, macs=0.19, score=in_order)
    assert prune.blocks(model, TOKENS, macs=1.0).cuts.removed == ()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ratio": 1.0}, r"ratio=1.0 must be at least 0 and below 1"),
        ({"ratio": -0.1}, r"ratio=-0.1 must be at least 0"),
        ({"count": -1}, "count=-1 must be a whole number"),
        ({"count": 1.5}, "count=1.5 must be a whole number"),
        ({"count": 5}, "count=5, and only 4 blocks can go: 1, 2, 3, 4"),
        ({"count": 1, "protect": "*"}, "count=1, and only 0 blocks can go, the others are protected"),
        ({"macs": 1.5}, "macs=1.5 is neither a fraction to keep"),
        ({}, "exactly one of ratio, count, names, macs, latency; got none"),
        ({"ratio": 0.5, "count": 1}, "exactly one of .* got ratio and count"),
        ({"macs": "2x"}, "macs=2x must be above 0 and at most 1"),
        ({"macs": "much"}, "macs='much' is no amount"),
        ({"names": ["5"]}, "names: '5' matches no block"),
        ({"names": ["2", "3"], "protect": "3"}, "names: '3' is protected"),
        ({"ratio": 0.5, "protect": ["7"]}, "protect: '7' matches no block"),
        ({"count": 1, "score": "l1norm"}, "no method 'l1norm' in scores"),
        ({"count": 1, "score": "loss"}, "score 'loss' is measured on data: pass data="),
        ({"count": 1, "score": "similarity"}, "score 'similarity' is measured on data"),
        ({"count": 1, "score": "loss", "data": (TOKENS, TOKENS)}, "score 'loss' needs a loss"),
        ({"count": 1, "score": "loss", "data": TOKENS, "loss": "mse"}, "needs targets, and the data yield inputs"),
        ({"count": 1, "score": lambda weight, grad: grad}, "is not of weights alone"),
    ],
)
def test_bad_input_is_told(how, message):
    with pytest.raises(InputError, match=message) as error:
        prune.blocks(feeds(16, 16, 16, 16), TOKENS, **how)
    assert error.value.exit_code == 2


def test_a_typo_gets_the_nearest_name():
    with pytest.raises(
        InputError, match=r"'layer1.7' matches no block. Did you mean 'layer1\.\d'.*The blocks are lay"
    ):
        prune.blocks(resnet_cifar(20), IMAGE, names=["layer1.7"])
    with pytest.raises(InputError, match=r"'layer2.0' cannot be removed: it turns \(2, 16, 32, 32\) into"):
        prune.blocks(resnet_cifar(20), IMAGE, names=["layer2.0"])


def test_a_model_without_blocks_says_so():
    with pytest.raises(InfeasibleError, match="none of its modules hands its input on") as error:
        prune.blocks(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), TOKENS, ratio=0.5)
    assert error.value.exit_code == 3
    with pytest.raises(SurgeryError, match="does not accept the example input"):
        prune.blocks(feeds(16, 16), torch.randn(2, 3), ratio=0.5)


def test_a_manifest_is_refused_elsewhere_and_twice():
    pruned = prune.blocks(feeds(16, 16), TOKENS, names=["1"])
    with pytest.raises(SurgeryError, match=r"'1.up.weight' is \(4, 8\), the manifest expects \(16, 8\)"):
        prune.replay(feeds(4, 16), pruned.cuts)
    with pytest.raises(SurgeryError, match="applied already: '1' is removed"):
        prune.replay(pruned.model, pruned.cuts)
    with pytest.raises(SurgeryError, match=r"no module 'layers.9'. Did you mean 'layers.2'"):
        prune.replay(PostNorm(), Cuts(shapes={}, removed=(Removed("layers.9"),)))


# --- with everything else


def test_blocks_then_channels_replayed_in_order():
    model = resnet_cifar(20).eval()
    first = prune.blocks(model, IMAGE, count=4)
    second = prune.channels(first.model, IMAGE, ratio=0.5)
    assert second.after["macs"] < 0.6 * first.after["macs"] and first.after["macs"] == second.before["macs"]
    again = prune.replay(prune.replay(copy.deepcopy(model), first.cuts), second.cuts)
    state = second.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert same(again, second.model, IMAGE)
    third = prune.blocks(first.model, IMAGE, count=1)  # and again, on what is left
    assert sum(isinstance(module, Skip) for module in third.model.modules()) == 5
    again = prune.replay(prune.replay(copy.deepcopy(model), first.cuts), third.cuts)
    assert same(again, third.model, IMAGE)


def test_of_a_rewritten_graph_it_is_said_that_it_has_no_blocks():
    analysis = prune.analyze(feeds(16, 16), TOKENS)
    graph = prune.cut(analysis, prune.select(analysis, ratio=0.5), form="graph").model
    with pytest.raises(
        InfeasibleError, match=r"rewritten graph, which calls no blocks; what would help: prune.blocks b"
    ):
        prune.blocks(graph, TOKENS, count=1)


@pytest.mark.parametrize("model, example", [(resnet_cifar(20).eval(), IMAGE), (PostNorm().eval(), TOKENS)])
def test_a_shortened_model_is_exported(model, example, tmp_path):
    pruned = prune.blocks(model, example, ratio=0.5)
    path = tmp_path / "short.onnx"
    path.write_bytes(export_onnx(pruned.model, example).graph.SerializeToString())
    torch.testing.assert_close(run_file(path, example), outputs(pruned.model, example)[0], rtol=1e-4, atol=1e-4)


FRESH = """
import sys, torch
from paretune.checkpoint import State
from paretune.zoo import resnet_cifar
from pathlib import Path
model = State.load(Path(sys.argv[1])).onto(resnet_cifar(20)).eval()
print(float(model(torch.linspace(-1, 1, 3072).view(1, 3, 32, 32)).sum()))
"""


def test_it_loads_in_a_fresh_process(tmp_path):
    model = resnet_cifar(20).eval()
    pruned = prune.blocks(model, IMAGE, count=3)
    State(pruned.model.state_dict(), (pruned.cuts,)).save(tmp_path / "short.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "short.safetensors")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = outputs(pruned.model, torch.linspace(-1, 1, 3072).view(1, 3, 32, 32))[0].sum()
    assert float(done.stdout) == pytest.approx(float(expected), rel=1e-5)


class DigitsResNet(nn.Module):
    def __init__(self):
        super().__init__()
        from paretune.zoo._resnet_cifar import Block

        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)
        self.blocks = nn.Sequential(*[Block(8, 8, 1) for _ in range(4)])

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_the_step_removes_and_recalibrates(digits):
    task = Task(model=DigitsResNet, example=torch.from_numpy(digits["val"][0][:1]), **digits)
    events = []
    context = Context(emit=lambda kind, fields: events.append((kind, fields)))
    step = prune.Blocks(samples=64, recalibrate=64)
    result = step.apply(task.build(), task, context)
    (gone,) = result.details["removed"]
    assert result.details["scores"][gone] >= 0 and events[0][0] == "pruned" and events[0][1]["removed"] == [gone]
    plain = prune.Blocks(samples=64, recalibrate=0).apply(task.build(), task, Context()).model.state_dict()
    state = result.model.state_dict()
    moved = [name for name in state if name.endswith("running_mean")]
    assert moved and all(not torch.equal(state[name], plain[name]) for name in moved)
    assert all(torch.equal(state[name], plain[name]) for name in state if name.endswith("weight"))
    inputs = task.data("train").first(64)[0]
    assert same(State(state, result.cuts).onto(task.build()), result.model, inputs)
    greedy = prune.Blocks(count=2, score="loss", samples=64).apply(task.build(), task, Context())
    assert len(greedy.details["removed"]) == 2 and all(value > 0 for value in greedy.details["scores"].values())


def test_the_step_in_a_recipe():
    recipe = parse_recipe({"steps": ["prune.blocks", {"prune.blocks": {"names": ["layer1.*"], "score": "l1"}}]})
    first, second = recipe.steps
    assert isinstance(first, prune.Blocks) and first.ratio == 0.25 and first.score == "similarity"
    assert second.names == ("layer1.*",) and second.ratio is None
    assert parse_recipe(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 1.0}, r"ratio=1.0 must be at least 0 and below 1"),
        ({"macs": -1.5}, r"macs=-1.5 must be above 0$"),
        ({"macs": 0}, r"macs=0 must be above 0$"),
        ({"macs": "lots"}, "macs"),
        ({"ratio": 0.5, "count": 2}, "exactly one of ratio, count, names, macs, latency; got ratio and count"),
        ({"score": "similar"}, "no method 'similar' in scores"),
        ({"samples": 0}, "samples=0"),
    ],
)
def test_fields_of_the_step_are_checked_when_it_is_built(fields, message):
    with pytest.raises(InputError, match=message) as error:
        prune.Blocks(**fields)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("collections.defaultdict", {"default_factory_module": "this", "default_factory_name": "s"}),
        ("builtins.dict", [{"__enum__": True, "fqn": "this:s", "name": "a"}]),
        ("builtins.dict", json.dumps([{"__enum__": True, "fqn": "this:s", "name": "a"}])),
    ],
)
def test_the_structure_in_a_manifest_imports_nothing(kind, context):
    structure = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])
    cuts = Cuts(shapes={}, removed=(Removed("0", ("input",), structure),))
    with pytest.raises(SurgeryError, match="stands in this, which is not imported here: import what defines it"):
        replay(nn.Sequential(nn.Linear(2, 2)), cuts)
    assert "this" not in sys.modules
