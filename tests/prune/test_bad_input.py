"""Whatever is given: it works, or the error says what was given, what is wrong with it, and what to change."""

import json
import math
import textwrap

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from paretune import prune
from paretune.cli import app
from paretune.cuts import Cuts
from paretune.errors import InfeasibleError, InputError, ParetuneError, RecipeError, RunError, SurgeryError
from paretune.prune._surgery import follow as _follow

ROWS = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
DATA = (torch.randn(16, 5, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


class Net(nn.Module):
    """5 -> 8 -> 3 with a forward of one's own, and things that are kept in attributes."""

    def __init__(self, forward=lambda m, x: m.b(m.a(x)), **kept):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.run = nn.Linear(5, 8), nn.Linear(8, 3), forward
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.run(self, x)


@pytest.fixture(scope="module")
def analysis():
    return prune.analyze(net(), ROWS)


# --- arguments


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, 7, math.nan, math.inf, "half", "0.5", [0.5], True])
def test_a_ratio_is_a_number_from_0_to_below_1(analysis, ratio):
    with pytest.raises(InputError, match=r"ratio=.* must be at least 0 and below 1; .* ratio=0.5 removes half"):
        prune.select(analysis, ratio=ratio)
    with pytest.raises(InputError, match=r"prune.blocks: ratio=.* must be at least 0 and below 1"):
        prune.blocks(net(), ROWS, ratio=ratio)
    with pytest.raises(RecipeError, match="ratio"):
        prune.Channels(ratio=ratio if ratio is not True else "yes")


@pytest.mark.parametrize("name", ["macs", "params", "size"])
@pytest.mark.parametrize("amount", [1.5, "9"])
def test_a_number_just_above_1_is_no_amount(analysis, name, amount):
    with pytest.raises(InputError, match=rf"{name}={amount} is neither a fraction to keep, .* nor an amount"):
        prune.select(analysis, **{name: amount})


@pytest.mark.parametrize("name", ["macs", "params", "size", "latency"])
@pytest.mark.parametrize("amount", [0, -1, math.nan, [1], True, "0", "0.0x", "1.5x", "x", "10%"])
def test_an_amount_is_a_part_or_a_number_with_a_unit(analysis, name, amount):
    with pytest.raises(InputError, match=rf"{name}=.* (must be above 0|is no amount; write '0.5x')"):
        prune.select(analysis, **{name: amount})


@pytest.mark.parametrize("threshold", [math.nan, "x", [1], True])
def test_a_threshold_is_a_number(analysis, threshold):
    with pytest.raises(InputError, match=r"threshold=.* must be a number: channels whose score is above it stay"):
        prune.select(analysis, threshold=threshold)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"0": 0}, "widths: 0: 0 must be a whole number from 1 to 8"),
        ({"0": -1}, "must be a whole number from 1 to 8"),
        ({"0": 9}, "must be a whole number from 1 to 8"),
        ({"0": 2.5}, "must be a whole number from 1 to 8"),
        ({"0": "4"}, "must be a whole number from 1 to 8"),
        ({"0": True}, "must be a whole number from 1 to 8"),
        ({"2": 1}, "widths: '2' cannot be cut: it is the model's output"),
        ({"zz": 1}, "widths: 'zz' matches no layer that can be cut"),
        ({"0": 4, "zz": 1}, "widths: 'zz' matches no layer"),
        ({0: 4}, r"widths=\{0: 4\} must say how many channels layers keep, by name or glob"),
        (["0"], r"widths=\['0'\] must say how many channels layers keep"),
        (4, "widths=4 must say how many channels layers keep"),
    ],
)
def test_widths_name_layers_and_what_they_keep(analysis, widths, message):
    with pytest.raises(InputError, match=message):
        prune.select(analysis, widths=widths)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give exactly one of ratio, threshold, widths, macs, params, size, latency; got none"),
        ({"ratio": 0.5, "macs": 0.5}, "got ratio and macs"),
        ({"ratio": 0.5, "scope": "globl"}, r"scope='globl' must be one of .*\. Did you mean 'global'\?"),
        ({"ratio": 0.5, "combine": "men"}, r"combine='men' must be one of .*\. Did you mean 'mean'\?"),
        *(
            ({"ratio": 0.5, "multiple": m}, "multiple=.* a whole number of at least 1")
            for m in (0, -1, 1.5, "8", None)
        ),
        *(({"ratio": 0.5, "samples": n}, "samples=.* a whole number of at least 1") for n in (0, 2.0, "x", True)),
        *(({"ratio": 0.5, "seed": n}, "seed=.* a whole number of at least 0") for n in (-1, "x")),
        (
            {"ratio": 0.5, "protect": ["fc"]},
            r"protect: 'fc' matches no layer\. Names are those of model.named_modules",
        ),
        *(({"ratio": 0.5, "protect": names}, "protect=.* must be a name, or a list") for names in (5, None, [5])),
    ],
)
def test_other_arguments_of_a_selection(analysis, how, message):
    with pytest.raises(InputError, match=message):
        prune.select(analysis, **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"form": "modul"}, r"form='modul' must be one of auto, module, graph\. Did you mean 'module'\?"),
        ({"form": None}, "form='None' must be one of"),
        ({"structures": "neuron"}, r"structures: 'neuron' is none of .*experts\. Did you mean 'neurons'\?"),
        ({"structures": 5}, "structures=5 must be a name, or a list of names"),
        ({"repair": True}, "repair=True needs calibration inputs: pass data="),
    ],
)
def test_arguments_of_channels(how, message):
    with pytest.raises(InputError, match=message):
        prune.channels(net(), ROWS, ratio=0.5, **how)


def test_a_function_of_one_structure_takes_what_channels_takes_and_no_other_structure():
    with pytest.raises(
        InputError, match=r"structures='heads': this function is channels\(..., structures=\('neurons"
    ):
        prune.neurons(net(), ROWS, structures="heads")
    with pytest.raises(InputError, match=r"rato=0.5: this function takes .*Did you mean 'ratio'\?"):
        prune.heads(net(), ROWS, rato=0.5)
    with pytest.raises(InputError, match=r"within='yes' must be True, for widths inside the heads, or False"):
        prune.heads(net(), ROWS, within="yes")
    with pytest.raises(InputError, match=r"repair=256 must be True, False or None; .* samples="):
        prune.channels(net(), ROWS, ratio=0.5, repair=256)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("tailor", r"no method 'tailor' in scores\. Did you mean 'taylor'\?"),
        (5, "score=5 must be a name that `paretune methods scores` lists"),
        (7, "score=7 must be a name"),
        ({}, "must be one name with its options"),
        ({"l1": None, "l2": None}, "must be one name with its options"),
        ({"l1": 5}, "must be one name with its options"),
        ({"taylor": {"off": 1}}, r"score 'taylor' has no option 'off'\. Did you mean 'of'\?"),
        (lambda w: w, "it asks for w; a score is given weight, grad"),
        (
            lambda weight: weight[0],
            r"gave \(5,\) for 8 units of 0.weight; it must give one number for each: \(8,\)",
        ),
        (lambda weight: 1.0, "gave a float for 8 units"),
        (lambda weight: None, "gave a NoneType for 8 units"),
        ("taylor", r"score 'taylor' needs grad, .*; pass data \(.*\) and loss \(one of cross_entropy"),
        ("bn_scale", "score 'bn_scale' needs bn_weight, which no layer"),
    ],
)
def test_a_score_that_cannot_be(analysis, score, message):
    with pytest.raises(InputError, match=message):
        prune.select(analysis, ratio=0.5, score=score)


def test_a_score_that_is_no_number():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(RunError, match=r"score 'l1' is not finite for 0.weight: look for NaN in the weights"):
        prune.channels(model, ROWS, ratio=0.5, score="l1")
    with pytest.raises(RunError, match=r"score 'ziplm' is not finite for .*: look for NaN in .* the data"):
        prune.channels(net(), ROWS, ratio=0.5, score="ziplm", data=torch.full((16, 5), math.nan))


@pytest.mark.parametrize(
    ("ratio", "multiple", "left", "note"),
    [
        (0.999, 1, 1, "0 keeps 1 of 8 channels, its least"),
        (0.999, 4, 4, "0 keeps 4 of 8 channels, its least that is a multiple of 4"),
        (0.9, 16, 8, "0 keeps its 8 channels: no smaller width that it can have is a multiple of 16"),
    ],
)
def test_of_a_group_that_would_be_emptied_the_least_that_may_stays_and_that_is_said(ratio, multiple, left, note):
    pruned = prune.channels(net(), ROWS, ratio=ratio, multiple=multiple)
    assert pruned.model[0].out_features == left and note in pruned.notes
    assert pruned.model(ROWS).shape == (2, 3)


# --- models


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (net, r"must be a torch.nn.Module object, and this is net: give net\(...\)"),
        (nn.Linear, r"this is Linear: give Linear\(...\)"),
        (None, "this is NoneType: give the module itself"),
        (net().state_dict(), "this is OrderedDict: give the module itself, with its weights loaded"),
        (torch.jit.script(net()), "a scripted or traced model cannot be pruned: .* Give the nn.Module"),
        (net().to("meta"), r"'0.weight' is on the meta device and holds no values to score, cut and compare"),
        (Net(lambda m, x: None), r"returns no tensor for the example \(it returned NoneType\)"),
        (Net(lambda m, x: {"n": 3}), r"returns no tensor for the example \(it returned dict\)"),
        (
            Net(lambda m, x: m.a),
            "cannot capture this model: it returns a Linear, which torch does not know how to take",
        ),
        (
            Net(lambda m, x: m.c(x)),
            r"does not accept the example input \(\(2, 5\) float32\): AttributeError: .*'c'",
        ),
        (
            Net(lambda m, x: m.b(m.a(x) + torch.randn(8))),
            r"draws random numbers in eval mode, .*test_bad_input.py",
        ),
        (
            Net(lambda m, x: m.b(F.dropout(m.a(x), 0.5, True))),
            r"in eval mode, .* training alone \(training=self.train",
        ),
        (
            Net(opened=(i for i in range(3))),
            r"'opened' of the model cannot be copied, and only a copy is ever cut",
        ),
    ],
)
def test_a_model_that_cannot_be_pruned(model, message):
    with pytest.raises(InputError, match=message) as error:
        prune.channels(model, ROWS, ratio=0.5)
    assert error.value.exit_code == 2


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_more_models_that_cannot_be_pruned():
    with pytest.raises(
        InputError, match=r"'0' is quantized \(Linear\): .* Give the model as it was before quantization"
    ):
        prune.channels(torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}), ROWS, ratio=0.5)
    with torch.inference_mode():
        made = net()
    with pytest.raises(InputError, match=r"'0.weight' was made in torch.inference_mode\(\)"):
        prune.channels(made, ROWS, ratio=0.5)
    with pytest.raises(SurgeryError, match=r"exported program .* Give the nn.Module that it was exported from"):
        prune.channels(torch.export.export(net(), (ROWS,)).module(), ROWS, ratio=0.5)
    for model in (nn.Sequential(), nn.Identity()):
        with pytest.raises(InfeasibleError, match="it has no layers"):
            prune.channels(model, ROWS, ratio=0.5)


def test_on_the_meta_device_a_model_is_analysed_and_no_more():
    meta, real = prune.analyze(net().to("meta"), ROWS), prune.analyze(net(), ROWS)
    assert meta.group_table() == real.group_table() and (meta.macs, meta.params) == (real.macs, real.params)
    with pytest.raises(InputError, match="to_empty"):
        prune.cut(meta, prune.select(real, ratio=0.5))
    with pytest.raises(InputError, match="is on the meta device"):
        prune.blocks(net().to("meta"), ROWS, count=1)
    with pytest.raises(
        InputError, match="the example is on the meta device and the model on cpu: give real values"
    ):
        prune.analyze(net(), ROWS.to("meta"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("form", ["module", "graph"])
def test_other_precisions_work(dtype, form):
    model = Net(a=nn.Linear(5, 8, dtype=dtype), b=nn.Linear(8, 3, dtype=dtype))
    pruned = prune.channels(model, ROWS.to(dtype), ratio=0.5, form=form).model
    assert pruned(ROWS.to(dtype)).dtype == dtype and pruned.a.weight.shape == (4, 5)
    with pytest.raises(
        SurgeryError, match=r"does not accept the example input \(\(2, 5\) float32\): .*same dtype"
    ):
        prune.analyze(Net().to(torch.float16), ROWS)


@pytest.mark.parametrize("batch", [1, 2])
def test_an_example_of_one_sample_where_batch_norm_trains(batch):
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    with pytest.raises(ValueError, match="more than 1 value"):
        model(ROWS[:1])
    model[1].reset_running_stats()
    pruned = prune.channels(model, ROWS[:batch], ratio=0.5)
    assert pruned.model[0].out_features == 4 and pruned.model.training
    assert model[1].num_batches_tracked == 0  # the model itself was not trained on it


def compiled():
    return torch.compile(net())


def wrapped():
    return nn.DataParallel(net())


def hooked():
    model = net()
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    model[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return model


def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))


def shared():
    layer = nn.Linear(8, 8)
    return nn.Sequential(nn.Linear(5, 8), layer, nn.ReLU(), layer, nn.Linear(8, 3))


def computed():
    return Net(kept=nn.Linear(2, 2).weight * 2)


@pytest.mark.parametrize("make", [compiled, wrapped, hooked, lazy, shared, computed])
def test_models_of_every_sort_work(make):
    torch.manual_seed(0)
    model = make()
    pruned = prune.channels(model, ROWS, ratio=0.5)
    before = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in pruned.model.parameters()) < before
    assert pruned.model(ROWS).shape == (2, 3)
    assert any("torch.compile was taken off" in note for note in pruned.notes) == (make is compiled)
    if make is hooked:
        keep = list(pruned.cuts.cuts[0].keep)
        expected = F.linear((2 * model[0](ROWS) / 2).relu()[:, keep] + 1, model[2].weight[:, keep], model[2].bias)
        torch.testing.assert_close(pruned.model(ROWS), expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")])
def test_the_callers_context_changes_nothing(context):
    model = net()
    plain = prune.channels(model, ROWS, ratio=0.5)
    with context():
        pruned = prune.channels(model, ROWS, ratio=0.5)
    assert pruned.cuts == plain.cuts
    pruned.model(ROWS).sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.model.parameters())


class Keeps(nn.Module):
    """Its forward counts, keeps its last output, fills lists and moves a running mean, in eval mode too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.calls, self.seen, self.known = nn.Linear(5, 8), nn.Linear(8, 3), 0, [], {}
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.calls += 1
        self.seen.append(x)
        self.known[len(self.seen)] = x
        self.count += 1
        y = self.a(x)
        self.last = y
        self.mean = 0.9 * self.mean + 0.1 * y.mean(0)
        return self.b(y - self.mean)


@pytest.mark.parametrize("cheap", [0, 1_000_000_000])  # run on fake tensors, and as it is
def test_nothing_that_a_forward_keeps_is_left_in_the_model_or_the_result(cheap, monkeypatch):
    monkeypatch.setattr(_follow, "_CHEAP", cheap)
    model = Keeps()
    pruned = prune.channels(model, ROWS, widths={"a": 4})
    for left in (model, pruned.model):
        assert float(left.count) == 0 and float(left.mean.abs().sum()) == 0 and type(left.mean) is torch.Tensor
    assert model.calls == 0 and model.seen == [] and model.known == {} and not hasattr(model, "last")
    assert pruned.model.mean.shape == (4,) and pruned.model(ROWS).shape == (2, 3)


# --- examples and data


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (None, r"does not accept the example input \(NoneType\): TypeError: linear\(\)"),
        ("abc", "must be Tensor, not str"),
        (ROWS.numpy(), "must be Tensor, not numpy.ndarray.*a tensor, a tuple, or a dict"),
        ((), "missing 1 required positional argument"),
        ((ROWS, ROWS), "takes 2 positional arguments but 3 were given"),
        ({"y": ROWS}, "unexpected keyword argument 'y'"),
        (torch.randn(2, 4), r"\(\(2, 4\) float32\): RuntimeError: mat1 and mat2 shapes"),
        (ROWS.long(), r"\(\(2, 5\) int64\): RuntimeError: .*dtype"),
        (torch.randn(0, 5), "the example is empty: give at least one sample"),
    ],
)
def test_an_example_that_the_model_does_not_take(example, message):
    with pytest.raises(InputError, match=message):
        prune.channels(net(), example, ratio=0.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(0, 5), torch.zeros(0).long()), "yields nothing: it has 0 samples"),
        ([], "yields nothing: it has 0 samples"),
        (DataLoader(TensorDataset(DATA[0][:0], DATA[1][:0])), "yields nothing: it has 0 samples"),
        (iter(()), "data yields no batch"),
        (DATA[0], r"data yields no target, and the loss needs one; yield \(inputs, target\)"),
        (5, "cannot read data from int; give a DataLoader, a Dataset, or a tuple of arrays"),
        (
            (DATA[0][:, :4], DATA[1]),
            r"inputs of shapes \[\(16, 4\)\], and the model was captured with .*\[\(2, 5\)\]",
        ),
        (
            (DATA[0], DATA[1] + 9),
            r"the loss failed on a batch of the data: IndexError: .*\(16, 3\) float32 as output",
        ),
        (
            (DATA[0].double(), DATA[1]),
            r"data yields torch.float64, and the model was .*; convert .* data.float\(\)",
        ),
        ((DATA[0] * math.nan, DATA[1]), "the loss is not finite on a batch of the data; look for NaN"),
        ((DATA[0], DATA[1][:3]), r"its arrays have unlike lengths \[3, 16\]"),
    ],
)
def test_data_that_a_score_cannot_use(analysis, data, message):
    with pytest.raises(ParetuneError, match=message):
        prune.select(analysis, ratio=0.5, score="taylor", data=data, loss="cross_entropy")


def loss_with_a_full_stop(output, target):
    raise IndexError("Target 7 is out of bounds.")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("cross_entropi", r"no loss 'cross_entropi'\. Did you mean 'cross_entropy'\?"),
        (lambda output: output.sum(), r"the loss failed on a batch of the data: TypeError: .*takes 1 positional"),
        (loss_with_a_full_stop, r"IndexError: Target 7 is out of bounds \(at .*\)\. It was given"),
        (lambda output, target: output, r"the loss has shape \(16, 3\); it must give a scalar tensor, the mean"),
        (lambda output, target: 1.0, "the loss gives a float; it must give a scalar tensor"),
        (
            lambda output, target: output.sum().detach(),
            "does not depend on the model's output in a way that has a grad",
        ),
    ],
)
def test_a_loss_that_cannot_be(analysis, loss, message):
    with pytest.raises(ParetuneError, match=message):
        prune.select(analysis, ratio=0.5, score="taylor", data=DATA, loss=loss)


def test_an_iterator_of_batches_serves_score_and_repair():
    batches = [(DATA[0][i : i + 4], DATA[1][i : i + 4]) for i in range(0, 16, 4)]
    how = {"ratio": 0.5, "score": "taylor", "loss": "cross_entropy"}
    once = prune.channels(net(), ROWS, data=iter(batches), **how)
    assert "1 layers were repaired in closed form on 16 samples" in once.notes
    assert once.cuts == prune.channels(net(), ROWS, data=DATA, **how).cuts


def test_a_layer_that_reads_nan_is_not_repaired_and_that_is_said():
    pruned = prune.channels(net(), ROWS, ratio=0.5, score="l1", data=torch.full((16, 5), math.nan))
    assert (
        "2 was not repaired: what it reads or gives on the data is not finite: look for NaN in them"
        in pruned.notes
    )
    assert all(bool(parameter.isfinite().all()) for parameter in pruned.model.parameters())


# --- what the functions give each other


def test_a_selection_belongs_to_its_analysis(analysis):
    other = prune.analyze(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)), ROWS)
    selection = prune.select(other, ratio=0.5)
    for function in (prune.cut, prune.predict):
        with pytest.raises(InputError, match="this selection was made from another model"):
            function(analysis, selection)
        with pytest.raises(
            InputError, match=r"prune.select\(analysis, ...\) gave, in this order; got Selection and"
        ):
            function(selection, analysis)
    with pytest.raises(InputError, match=r"select takes what prune.analyze.* gives, and got a Sequential"):
        prune.select(net(), ratio=0.5)
    mine = prune.select(analysis, ratio=0.5)
    with pytest.raises(InputError, match=r"prune.repair takes what prune.cut gives, and got a Sequential"):
        prune.repair(analysis, mine, net(), DATA[0])
    with pytest.raises(InputError, match="the pruned model was cut from another model"):
        prune.repair(analysis, mine, prune.cut(other, selection), DATA[0])


def test_a_manifest_that_is_none_or_of_another_model(analysis):
    pruned = prune.cut(analysis, prune.select(analysis, ratio=0.5))
    content = pruned.cuts.to_json()
    for wrong, message in (
        (pruned, "a Pruned is no manifest of cuts: give its .cuts"),
        (content, r"a dict is no manifest of cuts: read it by Cuts.from_json"),
        ((pruned.cuts, 3), "a tuple is no manifest of cuts: give one manifest after the other"),
        (None, "a NoneType is no manifest of cuts"),
    ):
        with pytest.raises(SurgeryError, match=message):
            prune.replay(net(), wrong)
    for model, message in (
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)),
            r"'0.weight' is \(8, 3, 3, 3\), the man",
        ),
        (nn.Sequential(nn.Linear(5, 8)), "the model has no module '2'"),
        (prune.replay(net(), pruned.cuts), "of another architecture, or was applied already"),
        (None, "replayed on a fresh torch.nn.Module, and this is a NoneType"),
    ):
        with pytest.raises(SurgeryError, match=message):
            prune.replay(model, pruned.cuts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "x"}, r"no manifest of cuts \(ValueError: form 'x' with 0 nodes\)"),
        ({"cuts": [{"tensor": "0.weight"}]}, r"no manifest of cuts \(KeyError: 'axis'\)"),
        ({"cuts": [{"tensor": "0.weight", "axis": 5, "keep": [1]}]}, "damaged: it keeps places of axis 5"),
        ({"cuts": [{"tensor": "0.weight", "axis": 0, "keep": [99]}]}, r"that a tensor of \(8, 5\) has not"),
        ({"cuts": [{"tensor": "nope", "axis": 0, "keep": [1]}]}, "damaged: it keeps places of axis 0 of 'nope'"),
        ({"folded": ["zz"]}, "the model has no module 'zz'"),
    ],
)
def test_a_damaged_manifest_changes_nothing(analysis, changes, message):
    content = prune.cut(analysis, prune.select(analysis, ratio=0.5)).cuts.to_json()
    model = net()
    with pytest.raises(SurgeryError, match=message):
        prune.replay(model, Cuts.from_json(content | changes))
    assert model[0].weight.shape == (8, 5)
    for wrong in ({}, None, "x", []):
        with pytest.raises(SurgeryError, match="this is no manifest of cuts"):
            Cuts.from_json(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", 2, 4), "scores of type str"),
        ((torch.randn(4, 8), 2.5, 4), "n=2.5 must be a whole number"),
        ((torch.full((4, 8), math.nan), 2, 4), "some scores are NaN"),
    ],
)
def test_n_of_m(arguments, message):
    with pytest.raises(ParetuneError, match=message):
        prune.n_m(*arguments)


# --- the command line

LONE = """
import torch
from torch import nn
import paretune

class Lone(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x)

def make_task():
    data = torch.randn(64, 8), torch.arange(64) % 4
    return paretune.Task(name="lone", model=Lone, train=data, val=data, test=data)
"""
RECIPE = "task: lone.py:make_task\nsteps: [{prune.channels: {ratio: 0.5}}]\n"
REASON = "fc: it is the model's output; what would help: nothing: the output's shape is what callers rely on"


@pytest.fixture
def lone(tmp_path, monkeypatch):
    (tmp_path / "lone.py").write_text(textwrap.dedent(LONE))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def test_a_model_with_nothing_to_prune_exits_with_3_and_the_reasons_by_layer(lone):
    shown = CliRunner().invoke(app, ["check", "recipe.yaml"])
    assert shown.exit_code == 3 and REASON in " ".join(shown.stdout.split())
    document = CliRunner().invoke(app, ["check", "recipe.yaml", "--json"])
    assert document.exit_code == 3 and REASON in json.loads(document.stdout)["steps"][0]["problem"]
    run = CliRunner().invoke(app, ["prune", "lone.py:make_task", "--ratio", "0.5", "--json"])
    error = json.loads(run.stdout)["error"]
    assert run.exit_code == 3 and error["type"] == "InfeasibleError" and REASON in error["message"]
