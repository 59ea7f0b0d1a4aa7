"""Hand-built models, one per pattern: what is coupled, what is pinned, and that the cut computes the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(before, after, kernel=3, **options):
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, **options)


class Head(nn.Module):
    """Features, pooled, into a linear layer."""

    def __init__(self, width, classes=5):
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def test_a_chain_loses_the_rows_of_one_layer_and_the_columns_of_the_next(oracle):
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8, 6), Head(6))
    pruned = oracle(model, IMAGE, widths={"0": 3, "3": 2})
    after = shapes(pruned.model)
    assert after["0.weight"] == (3, 3, 3, 3) and after["0.bias"] == (3,) and after["1.weight"] == (3,)
    assert after["3.weight"] == (2, 3, 3, 3) and after["4.fc.weight"] == (5, 2)
    assert pruned.model[1].running_mean.shape == (3,) and pruned.model[1].num_features == 3
    assert (pruned.model[0].out_channels, pruned.model[3].in_channels, pruned.model[4].fc.in_features) == (3, 3, 2)
    # 8x8 pixels: 27 * 3 per pixel, then 9 * 3 * 2, then the head
    assert pruned.after["macs"] == 64 * 27 * 3 + 64 * 27 * 2 + 2 * 5
    assert pruned.before["macs"] == 64 * 27 * 8 + 64 * 72 * 6 + 6 * 5


def test_the_lowest_l1_norm_goes_first():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 1.0], [0.1, 0.1], [2.0, -2.0], [0.5, -0.2]]))
    pruned = prune.channels(model, torch.ones(1, 2), ratio=0.5)
    assert torch.equal(pruned.model[0].weight, model[0].weight[[0, 2]])
    assert torch.equal(pruned.model[2].weight, model[2].weight[:, [0, 2]])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 8), conv(8, 6), conv(6, 8), Head(8)

    def forward(self, x):
        x = self.stem(x)
        y = self.b(F.relu_(self.a(x)))
        y += x
        return self.head(F.relu_(y))


def test_a_residual_add_couples_the_layers_that_meet(oracle):
    pruned = oracle(Residual(), IMAGE, widths={"stem": 3, "a": 2})
    assert pruned.widths == {"stem": 3, "a": 2}
    stem, last = (
        next(c for c in pruned.cuts.cuts if c.tensor == t and c.axis == 0) for t in ("stem.weight", "b.weight")
    )
    assert stem.keep == last.keep


def test_an_in_place_operator_couples_through_shared_storage(oracle):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.head = conv(3, 6), conv(3, 6), conv(6, 6), Head(6)

        def forward(self, x):
            y = self.a(x)
            y.add_(self.b(x))
            F.relu_(y)  # its result is dropped: y itself has changed
            return self.head(self.c(y))

    pruned = oracle(InPlace(), IMAGE, widths={"a": 2, "c": 3})
    assert shapes(pruned.model)["b.weight"][0] == 2


def test_concatenation_keeps_its_branches_apart(oracle):
    class Concat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm, self.c, self.head = (
                conv(3, 4),
                conv(3, 6),
                nn.BatchNorm2d(10),
                conv(10, 4),
                Head(4),
            )

        def forward(self, x):
            return self.head(self.c(self.norm(torch.cat([self.a(x), self.b(x)], 1))))

    pruned = oracle(Concat(), IMAGE, widths={"a": 1, "b": 5})
    assert shapes(pruned.model)["c.weight"] == (4, 6, 3, 3) and pruned.model.norm.num_features == 6


def test_depthwise_convolutions_go_with_their_channels(oracle):
    model = nn.Sequential(
        conv(3, 8), conv(8, 8, groups=8), nn.BatchNorm2d(8), conv(8, 16, groups=8), conv(16, 4), Head(4)
    )
    pruned = oracle(model, IMAGE, widths={"0": 3})
    assert pruned.model[1].groups == 3 and pruned.model[1].weight.shape == (3, 1, 3, 3)
    assert pruned.model[3].weight.shape == (6, 1, 3, 3) and pruned.model[3].groups == 3
    assert pruned.model[4].in_channels == 6


def test_grouped_convolution_chooses_freely_inside_each_group(oracle):
    model = nn.Sequential(conv(3, 8, 1), conv(8, 8, groups=2), nn.ReLU(), conv(8, 4, 1), Head(4)).double()
    pruned = oracle(model, IMAGE, widths={"0": 4, "1": 6})
    assert pruned.model[1].weight.shape == (6, 2, 3, 3) and pruned.model[1].groups == 2
    # group 1 must lose places 0 and 1, group 2 places 2 and 3: the same places in both would be a worse choice
    scores = torch.tensor([1, 2, 9, 9, 9, 9, 1, 2.0])
    choice = prune.channels(
        model,
        IMAGE,
        widths={"0": 4},
        score=lambda weight: scores[: len(weight)] if len(weight) == 8 else weight.flatten(1).sum(1),
    )
    cut = next(c for c in choice.cuts.cuts if c.tensor == "1.weight" and c.axis == 1)
    assert cut.blocks == 2 and cut.keep == (2, 3, 0, 1)
    assert next(c for c in choice.cuts.cuts if c.tensor == "0.weight").keep == (2, 3, 4, 5)


def test_parts_of_a_grouped_convolution_that_come_from_one_place_lose_the_same(oracle):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = conv(3, 4), conv(8, 8, groups=2), Head(8)

        def forward(self, x):
            y = self.a(x)
            return self.head(self.b(torch.cat([y, y], 1)))

    pruned = oracle(Twice(), IMAGE, widths={"a": 3})
    assert pruned.model.b.weight.shape == (8, 3, 3, 3)


class OptionA(nn.Module):
    """Two stages of a ResNet whose shortcut pads the channels with zeros, half of them on each side."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), conv(8, 16, stride=2, bias=False), conv(16, 16, bias=False)
        self.norm, self.head = nn.BatchNorm2d(16), Head(16)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.norm(self.b(F.relu(self.a(x))))
        return self.head(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))


def test_a_padded_shortcut_may_lose_its_padding_and_couples_the_middle(oracle):
    analysis = prune.analyze(OptionA(), IMAGE.float())
    stream = next(group for group in analysis.groups if "stem" in group.layers)
    assert stream.layers == ("stem", "b")
    # those to which only the padding's zeros are added may go too
    assert next(layer for layer in analysis.layers if layer.name == "b").prunable == 16
    pruned = oracle(OptionA(), IMAGE, ratio=0.5, scope="local")
    kept = next(c for c in pruned.cuts.cuts if c.tensor == "b.weight" and c.axis == 0).keep
    stem = next(c for c in pruned.cuts.cuts if c.tensor == "stem.weight" and c.axis == 0).keep
    assert [k - 4 for k in kept if 4 <= k < 12] == list(stem)
    # some of the padding went, which the code writes as 4, 4
    assert pruned.cuts.form == "graph" and len(kept) < len(stem) + 8


def test_only_the_middle_of_a_padded_shortcut_goes_where_the_code_must_follow(oracle):
    pruned = oracle(OptionA(), IMAGE, form="module", ratio=0.4, scope="local")
    kept = next(c for c in pruned.cuts.cuts if c.tensor == "b.weight" and c.axis == 0).keep
    assert pruned.cuts.form == "module" and set(range(4)) | set(range(12, 16)) <= set(kept)


@pytest.mark.parametrize(
    "flatten", [lambda x: x.flatten(1), lambda x: x.view(x.size(0), -1), lambda x: torch.flatten(x, 1)]
)
def test_flattening_into_a_linear_layer_removes_blocks_of_pixels(oracle, flatten):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = conv(3, 4), nn.Linear(4 * 16, 5)

        def forward(self, x):
            return self.fc(flatten(F.max_pool2d(self.a(x), 2)))

    pruned = oracle(Flat(), IMAGE, widths={"a": 3})
    assert pruned.model.fc.weight.shape == (5, 48)


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 6), conv(6, 4), nn.Linear(4 * 64, 5)

    def forward(self, x):
        return self.fc(self.b(self.a(x)).view(-1, 256))


def test_a_view_with_a_number_in_the_code_gives_the_graph(oracle):
    pruned = oracle(Written(), IMAGE, widths={"a": 3, "b": 2})
    assert pruned.cuts.form == "graph" and shapes(pruned.model)["fc.weight"] == (5, 128)
    assert "view(-1, 256)" in pruned.notes[-1]


def test_where_the_code_must_follow_a_written_number_keeps_its_layer_and_names_the_line(oracle):
    pruned = oracle(Written(), IMAGE, form="module", ratio=0.5)
    assert pruned.widths == {"a": 3} and isinstance(pruned.model, Written)
    (name, reason, remedy), *_ = pruned.unprunable
    assert name == "b" and "view(-1, 256)" in reason and "test_couplings.py" in reason and "-1" in remedy


def test_tied_weights_are_cut_once_and_stay_tied(oracle):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b, self.head = conv(3, 6), conv(6, 6), conv(6, 6), Head(6)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.head(self.b(F.relu(self.a(self.stem(x)))))

    pruned = oracle(Tied(), IMAGE, widths={"stem": 4})
    assert pruned.model.b.weight is pruned.model.a.weight and pruned.model.a.weight.shape[:2] == (4, 4)
    assert pruned.model.b.out_channels == 4


def test_a_module_called_twice_couples_what_goes_in_with_what_comes_out(oracle):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.step, self.head = conv(3, 6), conv(6, 6), Head(6)

        def forward(self, x):
            x = self.stem(x)
            for _ in range(3):
                x = torch.relu(self.step(x))
            return self.head(x)

    pruned = oracle(Loop(), IMAGE, widths={"step": 2})
    assert pruned.model.step.weight.shape == (2, 2, 3, 3) and pruned.model.stem.out_channels == 2


class Sliced(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.a, self.read, self.head = conv(3, 8), read, Head(len(range(8)[read]))

    def forward(self, x):
        return self.head(self.a(x)[:, self.read])


@pytest.mark.parametrize(
    ("read", "form"),
    [
        (slice(0, 3), "graph"),  # reads 0..2, of which some go
        (slice(2, None), "graph"),  # the first two shift what is read
        (slice(-3, None), "graph"),  # counted from the end
        (slice(None, -2), "graph"),
        (slice(0, None, 2), "graph"),
        (slice(None), "module"),
        (slice(0, 100), "module"),
    ],
)
def test_a_slice_reads_what_it_read_before(oracle, read, form):
    analysis = prune.analyze(Sliced(read), IMAGE.float())
    assert next(layer for layer in analysis.layers if layer.name == "a").prunable == 8
    # three of every kind: before, inside and after the range that is read
    keep = torch.tensor([9.0, 1, 9, 1, 9, 9, 1, 9])
    pruned = oracle(Sliced(read), IMAGE, widths={"a": 5}, score=lambda weight: keep)
    assert pruned.cuts.form == form
    assert next(c for c in pruned.cuts.cuts if c.tensor == "a.weight").keep == (0, 2, 4, 5, 7)


@pytest.mark.parametrize(
    ("read", "stay"),
    [(slice(2, None), {0, 1}), (slice(-3, None), {5, 6, 7})],  # of the second, nobody reads what may go
)
def test_where_the_code_must_follow_a_slice_keeps_what_would_shift_it(oracle, read, stay):
    pruned = oracle(Sliced(read), IMAGE, form="module", matters=0 in stay, ratio=0.9)
    (cut,) = [c for c in pruned.cuts.cuts if c.tensor == "a.weight"]
    assert pruned.cuts.form == "module" and stay <= set(cut.keep) and len(cut.keep) == len(stay) + 1


def test_chunk_and_gate_lose_the_same_places(oracle):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = conv(3, 8), Head(4)

        def forward(self, x):
            value, gate = self.a(x).chunk(2, 1)
            return self.head(value * torch.sigmoid(gate))

    pruned = oracle(Gate(), IMAGE, widths={"a": 4})
    kept = next(c for c in pruned.cuts.cuts if c.tensor == "a.weight").keep
    assert [k + 4 for k in kept[:2]] == list(kept[2:])


def test_channel_shuffle_keeps_groups_equal(oracle):
    class Shuffle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = conv(3, 8), conv(8, 8, groups=2), Head(8)

        def forward(self, x):
            x = self.a(x)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
            return self.head(self.b(x))

    oracle(Shuffle(), IMAGE, ratio=0.5)


def test_an_unknown_operator_pins_and_names_the_line():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = conv(3, 6), conv(6, 6), Head(6)

        def forward(self, x):
            x = torch.fft.fft(self.a(x), dim=1).real
            return self.head(self.b(x))

    analysis = prune.analyze(Unknown(), IMAGE.float())
    reasons = {name: reason for name, reason, _ in analysis.unprunable}
    assert "fft" in reasons["a"] and "torch.fft.fft(self.a(x), dim=1)" in reasons["a"]
    assert "test_couplings.py" in reasons["a"]
    assert [group.layers for group in analysis.groups] == [("b",)]


def test_a_sum_over_channels_pins_them():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 6), conv(6, 6)

        def forward(self, x):
            return self.b(self.a(x)).sum(1)

    analysis = prune.analyze(Sum(), IMAGE.float())
    assert [group.layers for group in analysis.groups] == [("a",)]
    assert "reduces over this axis" in analysis.unprunable[0][1]


def test_a_stretched_axis_of_size_one_is_not_coupled(oracle):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.mask, self.squeeze, self.excite, self.head = (
                conv(3, 8),
                conv(8, 1),
                conv(8, 4, 1),
                conv(4, 8, 1),
                Head(8),
            )

        def forward(self, x):
            x = self.a(x)
            x = x * torch.sigmoid(self.mask(x))
            return self.head(x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))))

    pruned = oracle(Attention(), IMAGE, widths={"a": 5, "squeeze": 2})
    assert pruned.model.excite.weight.shape == (5, 2, 1, 1) and pruned.model.mask.weight.shape == (1, 5, 3, 3)


def test_parameters_of_the_model_itself_and_functional_calls_are_cut(oracle):
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Parameter(torch.ones(6, 1, 1))
            self.matrix, self.head = nn.Parameter(torch.randn(6, 4)), nn.Linear(4, 5)

        def forward(self, x):
            x = F.conv2d(x, self.weight, padding=1) * self.scale
            return self.head(x.mean((2, 3)) @ self.matrix)

    pruned = oracle(Raw(), IMAGE, reads={"matrix": 0}, widths={"weight": 4, "matrix": 2})
    assert pruned.model.scale.shape == (4, 1, 1) and pruned.model.matrix.shape == (4, 2)


def test_transposed_convolution_pixel_shuffle_and_resizing(oracle):
    model = nn.Sequential(
        conv(3, 6),
        nn.ConvTranspose2d(6, 8, 2, stride=2),
        nn.Upsample(scale_factor=2),
        nn.PixelShuffle(2),
        conv(2, 4),
        Head(4),
    )
    pruned = oracle(model, IMAGE, widths={"0": 3, "1": 4, "4": 2})
    assert pruned.model[1].weight.shape == (3, 4, 2, 2) and pruned.model[1].out_channels == 4


def test_every_rank_of_convolution(oracle):
    line = nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    assert oracle(line, torch.randn(1, 2, 9, dtype=torch.float64)).model[0].out_channels == 3
    volume = nn.Sequential(nn.Conv3d(1, 6, 2), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(6 * 8, 3))
    assert oracle(volume, torch.randn(1, 1, 5, 5, 5, dtype=torch.float64)).model[0].out_channels == 3


def test_layer_and_group_norm_follow_their_channels(oracle):
    model = nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), conv(8, 6), nn.Flatten(2), nn.LayerNorm(64), Head1())
    pruned = oracle(model, IMAGE, over={"1": 1}, widths={"0": 4, "2": 3})
    assert pruned.model[1].num_channels == 4 and pruned.model[4].normalized_shape == (64,)
    tokens = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))
    pruned = oracle(tokens, torch.randn(1, 7, 4, dtype=torch.float64), over={"1": -1}, widths={"0": 5})
    assert pruned.model[1].normalized_shape == (5,) and pruned.model[1].weight.shape == (5,)


def test_a_norm_without_weights_follows_its_channels(oracle):
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2))
    tokens = torch.randn(1, 7, 4, dtype=torch.float64)
    pruned = oracle(model, tokens, over={"1": (-1, "0.weight")}, form="module", widths={"0": 5})
    assert pruned.model[1].normalized_shape == (5,)


class Head1(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(x.mean(2))


def test_a_branch_that_only_runs_in_training_is_cut_too(oracle):
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head, self.aux = conv(3, 6), conv(6, 6), Head(6), Head(6)

        def forward(self, x):
            x = self.a(x)
            y = self.head(self.b(x))
            return (y, self.aux(x)) if self.training else y

    pruned = oracle(Auxiliary(), IMAGE, widths={"a": 2})
    assert pruned.model.aux.fc.in_features == 2
    assert pruned.model.train()(IMAGE.repeat(2, 1, 1, 1))[1].shape == (2, 5)


def test_dictionaries_in_and_out():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, left, right):
            return {"out": self.head(torch.relu(self.a(left) + self.b(right)))}

    pruned = prune.channels(Named(), {"left": torch.randn(1, 4), "right": torch.randn(1, 3)}, ratio=0.5)
    assert pruned.model.b.out_features == pruned.model.a.out_features == 3
