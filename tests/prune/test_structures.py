"""Heads, widths inside heads, neurons, embedding, hidden units and experts go as wholes, and nothing else does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, InputError

TOKENS = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = torch.randn(16, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Attention(nn.Module):
    """Separate q, k and v; where there are fewer key-value heads each serves several query heads."""

    def __init__(self, dim, heads, groups, width, repeat=True):
        super().__init__()
        self.heads, self.groups, self.repeat = heads, groups, repeat
        self.q, self.k, self.v = (nn.Linear(dim, n * width) for n in (heads, groups, groups))
        self.o = nn.Linear(heads * width, dim)

    def forward(self, x):
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
        k, v = (p(x).view(batch, tokens, self.groups, -1).transpose(1, 2) for p in (self.k, self.v))
        if self.repeat and self.heads > self.groups:
            k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        x = F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=not self.repeat)
        return self.o(x.transpose(1, 2).reshape(batch, tokens, -1))


class Feed(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(dim, width), nn.Linear(dim, width), nn.Linear(width, dim)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """An embedding of 10 tied to the output, one layer, and norms before each part."""

    def __init__(self, **how):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.places = nn.Embedding(20, 10), nn.Parameter(torch.randn(6, 10))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(10), nn.LayerNorm(10), nn.LayerNorm(10)
        self.attention, self.feed = Attention(10, **({"heads": 4, "groups": 2, "width": 4} | how)), Feed(10, 8)
        self.head = nn.Linear(10, 20, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places[: tokens.shape[1]]
        x = x + self.attention(self.norm1(x))
        x = x + self.feed(self.norm2(x))
        return self.head(self.norm3(x))


WORDS = torch.arange(12).reshape(2, 6)


def kept(pruned, tensor, axis=0):
    cuts = [c for c in pruned.cuts.cuts if c.tensor == tensor and c.axis == axis]
    return cuts[0].keep if cuts else None


def cut_axes(pruned):
    return {(c.tensor, c.axis) for c in pruned.cuts.cuts if c.tensor.endswith("weight")}


def test_the_least_head_goes_whole_with_its_queries_keys_and_values():
    model = Decoder(heads=4, groups=4, width=3).double()
    with torch.no_grad():
        for layer in (model.attention.q, model.attention.k, model.attention.v):
            layer.weight[3:6] *= 0.1  # head 1
    pruned = prune.heads(model, WORDS, ratio=0.25)
    left = (0, 1, 2, 6, 7, 8, 9, 10, 11)
    assert [kept(pruned, f"attention.{name}.weight") for name in "qkv"] == [left] * 3
    assert kept(pruned, "attention.o.weight", 1) == left
    assert cut_axes(pruned) == {(f"attention.{n}.weight", 0) for n in "qkv"} | {("attention.o.weight", 1)}
    with torch.no_grad():  # nobody reads head 1
        model.attention.o.weight[:, 3:6] = 0
    torch.testing.assert_close(pruned.model(WORDS), model(WORDS), rtol=0, atol=1e-12)
    assert pruned.cuts.form == "module" and pruned.model.attention.heads == 3


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize(
    ("heads", "groups", "ratio", "left"),
    [(8, 4, 0.3, (6, 3)), (8, 4, 0.6, (4, 2)), (6, 3, 0.7, (2, 1)), (4, 1, 0.3, (3, 1)), (4, 1, 0.9, (1, 1))],
)
def test_heads_that_share_keys_and_values_go_together_and_one_that_serves_all_stays(
    oracle, heads, groups, ratio, left, repeat
):
    model = Decoder(heads=heads, groups=groups, width=3, repeat=repeat)
    attention = oracle(model, WORDS, structures=("heads",), ratio=ratio).model.attention
    assert (attention.heads, attention.groups) == left
    assert [attention.get_submodule(name).out_features for name in "qkv"] == [
        3 * left[0],
        3 * left[1],
        3 * left[1],
    ]


class FusedMultiQuery(nn.Module):
    """Four query heads, one key head and one value head in one projection, taken by number (Falcon)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(5, 6 * 3), nn.Linear(4 * 3, 2)

    def forward(self, x):
        heads = self.qkv(x).view(*x.shape[:2], 6, 3)
        q, k, v = (part.transpose(1, 2) for part in (heads[..., :-2, :], heads[..., [-2], :], heads[..., [-1], :]))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_the_one_key_and_the_one_value_of_a_fused_projection_are_no_heads():
    model, x = FusedMultiQuery().double(), torch.randn(2, 4, 5, dtype=torch.float64)
    (group,) = [group for group in prune.analyze(model, x).groups if group.structure == "heads"]
    assert group.blocks.shape[1] == 4
    pruned = prune.heads(model, x, ratio=0.75)
    assert kept(pruned, "qkv.weight")[-6:] == tuple(range(12, 18))


def test_inside_heads_the_same_places_go_of_every_head():
    pruned = prune.heads(Decoder().double(), WORDS, within=True, scope="local")
    queries, keys, values, read = (
        torch.tensor(keep).view(-1, 2)
        for keep in (
            *(kept(pruned, f"attention.{name}.weight") for name in "qkv"),
            kept(pruned, "attention.o.weight", 1),
        )
    )
    assert len(queries) == len(read) == 4 and len(keys) == len(values) == 2  # 2 of 4 places of each
    for rows, reference in ((queries, queries), (keys, queries), (values, values), (read, values)):
        places = rows - 4 * torch.arange(len(rows))[:, None]
        assert (places == reference[0]).all() and ((places >= 0) & (places < 4)).all()
    assert pruned.cuts.form == "module" and pruned.model.attention.heads == 4


@pytest.mark.parametrize(
    ("structure", "cut"),
    [
        ("query_key", {("attention.q.weight", 0), ("attention.k.weight", 0)}),
        ("value", {("attention.v.weight", 0), ("attention.o.weight", 1)}),
        ("neurons", {("feed.gate.weight", 0), ("feed.up.weight", 0), ("feed.down.weight", 1)}),
        (
            "embedding",
            {("tokens.weight", 1), ("attention.o.weight", 0), ("feed.down.weight", 0)}
            | {(f"{n}.weight", 1) for n in ("attention.q", "attention.k", "attention.v", "feed.gate", "feed.up")}
            | {(f"norm{i}.weight", 0) for i in (1, 2, 3)},
        ),
    ],
)
def test_one_structure_alone(structure, cut):
    model = Decoder().double()
    pruned = prune.channels(model, WORDS, structures=structure, ratio=0.5)
    assert {c for c in cut_axes(pruned) if c[0] != "head.weight"} == cut
    assert pruned.model.head.weight is pruned.model.tokens.weight  # tied before and after
    assert pruned.model(WORDS).shape == model(WORDS).shape


def test_what_was_not_asked_for_is_listed_as_left():
    pruned = prune.neurons(Decoder().double(), WORDS, ratio=0.5)
    left = {layer: (reason, remedy) for layer, reason, remedy in pruned.unprunable}
    assert left["tokens"] == ("these are embedding, not asked for", "structures: embedding")
    assert {"attention.q", "attention.v"} <= set(left) and not {"feed.gate", "feed.up"} & set(left)


def test_neurons_are_by_hand_those_that_the_gate_and_the_other_half_make_together():
    model = Decoder().double()
    with torch.no_grad():
        model.feed.gate.weight[[1, 5]] *= 0.1
        model.feed.up.weight[[1, 5]] *= 0.1
    pruned = prune.neurons(model, WORDS, ratio=0.25)
    assert kept(pruned, "feed.gate.weight") == kept(pruned, "feed.up.weight") == (0, 2, 3, 4, 6, 7)
    with torch.no_grad():
        model.feed.down.weight[:, [1, 5]] = 0
    torch.testing.assert_close(pruned.model(WORDS), model(WORDS), rtol=0, atol=1e-12)


def test_the_embedding_goes_from_everything_that_is_added_to_it():
    pruned = prune.embedding(Decoder().double(), WORDS, ratio=0.3)
    model = pruned.model
    assert (
        model.tokens.weight.shape == (20, 7) and model.places.shape == (6, 7) and model.norm3.weight.shape == (7,)
    )
    keep = kept(pruned, "tokens.weight", 1)
    assert kept(pruned, "places", 1) == keep == kept(pruned, "feed.down.weight") == kept(pruned, "norm1.weight")


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def test_hidden_units_of_recurrent_layers():
    pruned = prune.channels(Recurrent().double(), TOKENS, structures=("hidden",), ratio=0.5)
    assert pruned.model.out.weight.shape == (3, 3)
    keep = kept(pruned, "out.weight", 1)
    gates = kept(pruned, "rnn.weight_hh_l0")
    assert gates == tuple(6 * gate + unit for gate in range(4) for unit in keep)


def test_a_score_of_outputs_sees_nothing_of_hidden_units():
    with pytest.raises(InputError, match=r"score 'fisher' needs .*, which no layer that can be pruned has"):
        prune.channels(
            Recurrent(),
            TOKENS.float(),
            ratio=0.5,
            structures=("hidden",),
            score="fisher",
            loss="mse",
            data=(TOKENS.float(), torch.zeros(2, 6, 3)),
        )


def test_a_recurrent_layer_is_listed_by_its_sequence():
    assert TOKENS.shape == (2, 6, 5)  # it has three outputs: the sequence, and two states of other shapes
    rows = {row["layer"]: row for row in prune.analyze(Recurrent().double(), TOKENS).table()}
    assert rows["rnn"]["shape"] == [2, 6, 6]


class Mixture(nn.Module):
    """Four experts, of which the router picks two for every sample."""

    def __init__(self, experts=4, top=2):
        super().__init__()
        torch.manual_seed(0)
        self.experts, self.top, self.router = experts, top, nn.Linear(5, experts)
        self.up, self.down = nn.Parameter(torch.randn(experts, 5, 8)), nn.Parameter(torch.randn(experts, 8, 3))

    def forward(self, x):
        values, picked = self.router(x).topk(self.top, -1)
        weights = x.new_zeros(len(x), self.experts).scatter(-1, picked, values.softmax(-1))
        hidden = torch.einsum("bd,edh->beh", x, self.up).relu()
        return (torch.einsum("beh,ehd->bed", hidden, self.down) * weights[..., None]).sum(1)


def test_experts_go_with_their_outputs_of_the_router():
    model = Mixture().double()
    with torch.no_grad():
        model.router.weight[2] *= 0.01
        model.up[2] *= 0.01
    pruned = prune.experts(model, ROWS, ratio=0.25)
    assert kept(pruned, "up") == kept(pruned, "down") == kept(pruned, "router.weight") == (0, 1, 3)
    assert pruned.cuts.form == "module" and pruned.model.experts == 3 and pruned.model.top == 2
    with torch.no_grad():
        model.router.bias[2] = -1e9  # the router never picks it
    torch.testing.assert_close(pruned.model(ROWS), model(ROWS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_as_many_experts_stay_as_the_router_picks(top):
    pruned = prune.experts(Mixture(top=top).double(), ROWS, ratio=0.99)
    assert pruned.model.router.out_features == top
    assert any(f"keeps {top} of 4 channels, its least" in note for note in pruned.notes)


def test_a_router_that_picks_all_keeps_all():
    with pytest.raises(InfeasibleError, match="no experts that can be removed; it has channels"):
        prune.experts(Mixture(top=4).double(), ROWS)
    why = {name: reason for name, reason, _ in prune.analyze(Mixture(top=4).double(), ROWS).unprunable}
    assert why["router"] == "topk chooses 4 of its 4 positions, and so many must stay"


def test_half_goes_where_no_target_is_given_and_every_target_is_taken():
    half = prune.neurons(Decoder().double(), WORDS)
    assert half.cuts == prune.neurons(Decoder().double(), WORDS, ratio=0.5).cuts
    least = prune.neurons(Decoder().double(), WORDS, params=0.95)
    assert half.after["params"] < least.after["params"] <= 0.95 * least.before["params"]


def test_a_structure_that_is_not_there_or_not_known():
    with pytest.raises(InfeasibleError, match=r"no heads that can be removed; it has hidden"):
        prune.heads(Recurrent().double(), TOKENS)
    with pytest.raises(InputError, match=r"structures: 'head' is none of .*Did you mean 'heads'\?"):
        prune.channels(Decoder().double(), WORDS, structures=("head",), ratio=0.5)
