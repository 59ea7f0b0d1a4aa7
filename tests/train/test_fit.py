import inspect
import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from paretune.data import call
from paretune.errors import DataError, RecipeError, RunError, TaskError
from paretune.recipe import Context
from paretune.task import Task
from paretune.train import _fit as module
from paretune.train import fit
from paretune.train._training import Training

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(160, 4, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] > 0).long()


def _net():
    state = torch.get_rng_state()
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    torch.set_rng_state(state)
    return net


def _task(**fields):
    fields = {"model": _net, "train": (X[:96], Y[:96]), "val": (X[96:], Y[96:]), "batch_size": 16} | fields
    return Task(**fields)


def _jitter(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def _same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def _epochs_in(folder):
    return [path.stem for path in sorted(folder.iterdir())]


class _Stop(Exception):
    """What a kill is in these tests."""


def _stop_after(epoch):
    def emit(kind, fields):
        if kind == "epoch" and fields["epoch"] == epoch:
            raise _Stop

    return emit


def test_separable_data_are_learnt():
    result = fit(_net(), _task(), epochs=15, lr=0.02)
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]
    assert max(record["value"] for record in result.curve) > 0.93
    assert not result.model.training


def test_arguments_have_the_defaults_of_the_training_fields():
    parameters = inspect.signature(fit).parameters
    fields = Training().__dict__
    assert {name: parameters[name].default for name in fields} == fields


def test_the_weights_of_the_best_validated_epoch_are_kept(monkeypatch):
    values = iter([0.5, 0.9, 0.7, 0.9])
    monkeypatch.setattr(module, "evaluate", lambda *_: SimpleNamespace(value=next(values)))
    model, seen = _net(), {}

    def emit(kind, fields):
        if kind == "epoch":
            seen[fields["epoch"]] = {name: value.clone() for name, value in model.state_dict().items()}

    result = fit(model, _task(), epochs=4, lr=0.01, context=Context(emit=emit))
    assert result.best_epoch == 2  # the first of the two
    assert [record["best"] for record in result.curve] == [0.5, 0.9, 0.9, 0.9]
    assert all(torch.equal(value, seen[2][name]) for name, value in model.state_dict().items())
    assert not torch.equal(model[0].weight, seen[4]["0.weight"])


def test_every_epoch_has_its_own_order_and_augmentation_fixed_by_the_seed():
    def batches_of(seed):
        seen = []

        def augment(inputs, generator):
            seen.append((inputs[0, 0].item(), torch.rand(1, generator=generator).item()))
            return inputs

        fit(nn.Linear(4, 2), _task(augment=augment, val=None), epochs=2, context=Context(seed=seed))
        return seen[-12:]  # after the batches that were fetched for a trial

    first = batches_of(0)
    assert first == batches_of(0) != batches_of(1)
    assert len({sample for sample, _ in first}) > 6  # 6 batches an epoch: another order in the second
    assert len({drawn for _, drawn in first}) == 12


def test_without_validation_data_the_last_epoch_is_kept_and_test_data_are_not_looked_at():
    task = _task(val=None, test=(torch.full((4, 4), math.nan), torch.full((4,), 77)))
    result = fit(_net(), task, epochs=2)
    assert result.best_epoch == 2
    assert [record["value"] for record in result.curve] == [None, None]


def test_a_metric_that_is_better_when_small():
    task = _task(loss="mse", metric="rmse", model=lambda: nn.Linear(4, 1), train=(X, X[:, :1]), val=(X, X[:, :1]))
    result = fit(task.build(), task, epochs=5, lr=0.05)
    values = [record["value"] for record in result.curve]
    assert result.best_epoch == 1 + values.index(min(values))


def test_early_stopping_after_patience_epochs_without_a_better_value(monkeypatch):
    values = iter([0.5, 0.7, 0.6, 0.7, 0.9])

    monkeypatch.setattr(module, "evaluate", lambda *_: SimpleNamespace(value=next(values)))
    result = fit(_net(), _task(), epochs=10, patience=2)
    assert len(result.curve) == 4 and result.stopped  # an equal value at epoch 4 is no better one
    assert result.best_epoch == 2


def test_patience_needs_validation_data():
    with pytest.raises(TaskError, match=r"patience=3 needs validation data.*Task\(val=\.\.\.\)"):
        fit(_net(), _task(val=None), epochs=5, patience=3)


class _Gradients:
    """An SGD run of one step whose update tells the clipped gradient."""

    def __init__(self, **clip):
        model = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(model.weight)

        def objective(model, inputs, target):  # gradient (3, 4), norm 5
            return {"linear": (model.weight * torch.tensor([[3.0, 4.0]])).sum()}

        task = _task(model=model, train=(X[:16, :2], Y[:16]), val=None)
        fit(model, task, epochs=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0,
            schedule="constant", objective=objective, **clip)  # fmt: skip
        self.applied = (-model.weight.detach()).flatten().tolist()


def test_clipping_by_hand():
    assert _Gradients().applied == pytest.approx([3.0, 4.0])
    assert _Gradients(clip_norm=1.0).applied == pytest.approx([0.6, 0.8], rel=1e-5)
    assert _Gradients(clip_norm=10.0).applied == pytest.approx([3.0, 4.0])
    assert _Gradients(clip_value=3.5).applied == pytest.approx([3.0, 3.5])
    assert _Gradients(clip_value=3.0, clip_norm=3.0).applied == pytest.approx([9 / 18**0.5] * 2, rel=1e-5)


@pytest.mark.parametrize("settings", [
    {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9},
    {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.01},
    {"optimizer": "adamw", "lr": 0.01, "clip_norm": 1.0, "label_smoothing": 0.1},
])  # fmt: skip
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_training_ends_with_the_same_bits(settings, stop, tmp_path):
    task = _task(augment=_jitter)
    whole = fit(_net(), task, epochs=3, **settings)
    with pytest.raises(_Stop):
        fit(_net(), task, epochs=3, **settings, context=Context(folder=tmp_path, emit=_stop_after(stop)))
    epochs = []
    emit = lambda kind, fields: epochs.append(fields["epoch"]) if kind == "epoch" else None  # noqa: E731
    torch.manual_seed(99)  # whatever the fresh process has done before
    resumed = fit(_net(), task, epochs=3, **settings, context=Context(folder=tmp_path, emit=emit))
    assert epochs == list(range(stop + 1, 4))
    assert _same(resumed.model, whole.model)
    drop = lambda curve: [{k: v for k, v in r.items() if k != "seconds"} for r in curve]  # noqa: E731
    assert drop(resumed.curve) == drop(whole.curve)
    assert resumed.best_epoch == whole.best_epoch


@pytest.mark.parametrize("how", [
    {"precision": "bfloat16", "layout": "channels_last"}, {"precision": "float32", "layout": "channels_last"},
])  # fmt: skip
def test_channels_last_and_bfloat16_resume_to_the_same_bits_too(how, tmp_path):
    images = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 16, 2))
    task = Task(model=net, train=(images, Y[:40]), val=(images, Y[:40]), batch_size=8)
    settings = {"epochs": 3, "optimizer": "sgd", "lr": 0.01, **how}
    whole = fit(task.build(), task, **settings)
    assert (whole.precision, whole.layout) == (how["precision"], how["layout"])
    with pytest.raises(_Stop):
        fit(task.build(), task, **settings, context=Context(folder=tmp_path, emit=_stop_after(2)))
    resumed = fit(task.build(), task, **settings, context=Context(folder=tmp_path))
    assert _same(resumed.model, whole.model)
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in resumed.model.parameters())


def test_what_auto_chose_is_kept_on_resume_even_before_the_first_epoch_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WORTH_A_TRIAL", 0)
    chosen = module.Compute(precision="bfloat16")
    monkeypatch.setattr(module, "choose", lambda *_, **__: (chosen, {"bfloat16 contiguous": 1.0}))

    def stop(kind, fields):
        if kind == "batch":
            raise _Stop

    with pytest.raises(_Stop):
        fit(_net(), _task(), epochs=2, context=Context(folder=tmp_path, emit=stop))
    monkeypatch.setattr(module, "choose", lambda *_, **__: pytest.fail("timed again"))
    resumed = fit(_net(), _task(), epochs=2, context=Context(folder=tmp_path))
    assert resumed.precision == "bfloat16" and resumed.timings == {"bfloat16 contiguous": 1.0}


def test_a_short_training_is_not_worth_a_trial():
    result = fit(_net(), _task(), epochs=2)
    assert (result.precision, result.layout, result.timings) == ("float32", "contiguous", {})


def test_early_stopping_survives_a_resume(tmp_path):
    context = Context(folder=tmp_path)
    settings = {"epochs": 8, "lr": 1e-6, "warmup": 0.0, "patience": 1}
    first = fit(_net(), _task(), **settings, context=context)
    again = fit(_net(), _task(), **settings, context=context)
    assert first.stopped and again.stopped and len(first.curve) == len(again.curve) < 8
    assert _same(first.model, again.model)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before_and_named(damage, tmp_path):
    task, settings = _task(), {"epochs": 4, "lr": 0.01}
    whole = fit(_net(), task, **settings)
    with pytest.raises(_Stop):
        fit(_net(), task, **settings, context=Context(folder=tmp_path, emit=_stop_after(3)))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "epoch-0002.safetensors",
        "epoch-0003.safetensors",
    ]
    newest = tmp_path / "epoch-0003.safetensors"
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
    newest.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    events = []
    resumed = fit(_net(), task, **settings, context=Context(folder=tmp_path, emit=lambda *e: events.append(e)))
    warnings = [fields["text"] for kind, fields in events if kind == "warning"]
    assert len(warnings) == 1 and str(newest) in warnings[0] and "the one before" in warnings[0]
    assert [fields["epoch"] for kind, fields in events if kind == "epoch"] == [3, 4]
    assert _same(resumed.model, whole.model)


def test_checkpoints_of_another_training_are_not_used(tmp_path):
    fit(_net(), _task(), epochs=3, lr=0.01, context=Context(folder=tmp_path))
    events = []
    context = Context(folder=tmp_path, emit=lambda *event: events.append(event))
    result = fit(_net(), _task(), epochs=2, lr=0.02, context=context)
    assert len(result.curve) == 2
    assert any(kind == "warning" and "another training" in fields["text"] for kind, fields in events)
    assert _same(result.model, fit(_net(), _task(), epochs=2, lr=0.02).model)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "epoch-0001.safetensors",
        "epoch-0002.safetensors",
    ]


def _poisoned(at):
    calls = []

    def objective(model, inputs, target):
        calls.append(1)
        loss = nn.functional.cross_entropy(call(model, inputs), target)
        return {"good": loss, "bad": loss * (math.nan if len(calls) == at else 1.0)}

    return objective


def test_a_loss_that_is_not_a_number_stops_with_step_epoch_and_term_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(RunError) as error:
        fit(_net(), _task(), epochs=3, lr=0.01, objective=_poisoned(9), context=Context(folder=tmp_path))
    assert str(error.value) == (
        "training stopped at step 9 (epoch 2 of 3, batch 3 of 6): the loss term 'bad' is nan. "
        "epoch-0001.safetensors is kept. Lower lr=0.01, set clip_norm=1, or look for NaN in the data"
    )
    assert error.value.exit_code == 5
    resumed = fit(_net(), _task(), epochs=3, lr=0.01, objective=_poisoned(0), context=Context(folder=tmp_path))
    assert len(resumed.curve) == 3 and all(p.isfinite().all() for p in resumed.model.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched():
    model = nn.Linear(4, 2)
    before = model.weight.detach().clone()

    def objective(model, inputs, target):  # the root's slope at 0 is infinite, the loss is 0
        return {"root": (model(inputs) * 0).abs().sum().sqrt()}

    with pytest.raises(RunError, match=r"step 1 .*the norm of the gradient is (nan|inf)"):
        fit(model, _task(model=model), epochs=1, objective=objective, clip_norm=1.0, clip_value=1.0)
    assert torch.equal(model.weight, before)


def test_events_of_epochs_and_batches():
    events = []
    fit(_net(), _task(), epochs=2, context=Context(emit=lambda *event: events.append(event)))
    batch = next(fields for kind, fields in events if kind == "batch")
    assert set(batch) == {"epoch", "epochs", "done", "total", "loss"}
    assert (batch["epoch"], batch["epochs"], batch["done"], batch["total"]) == (1, 2, 1, 6)
    epochs = [fields for kind, fields in events if kind == "epoch"]
    assert set(epochs[0]) == {"epoch", "epochs", "loss", "terms", "lr", "metric", "value", "best", "seconds"}
    assert epochs[0]["loss"] == pytest.approx(sum(epochs[0]["terms"].values()))
    json.dumps(events, allow_nan=False)


def test_the_loss_of_an_epoch_is_the_mean_over_samples_not_over_batches():
    def objective(model, inputs, target):
        return {"count": inputs[:, 0].mean() + 0 * model(inputs).sum()}

    ramp = torch.arange(10.0)[:, None].expand(10, 4).contiguous()
    task = _task(model=lambda: nn.Linear(4, 2), train=(ramp, Y[:10]), val=None, batch_size=8)  # 8 + 2
    result = fit(task.build(), task, epochs=1, objective=objective)
    assert result.curve[0]["loss"] == pytest.approx(4.5)


def test_a_last_batch_of_one_is_left_out_where_there_is_batch_norm_and_that_is_noted():
    result = fit(_net(), _task(train=(X[:33], Y[:33])), epochs=1)  # 16 + 16 + 1
    assert result.notes and "single of 33 samples" in result.notes[0]
    assert not fit(_net(), _task(train=(X[:34], Y[:34])), epochs=1).notes
    linear = fit(nn.Linear(4, 2), _task(train=(X[:33], Y[:33])), epochs=1)
    assert not linear.notes


def test_batches_of_one_with_batch_norm_are_refused():
    with pytest.raises(DataError, match="cannot train on batches of one sample; raise batch_size"):
        fit(_net(), _task(), epochs=1, batch_size=1)


def test_bad_data_are_named():
    with pytest.raises(DataError, match=r"task\.train yields nothing"):
        fit(_net(), _task(train=(X[:0], Y[:0])), epochs=1)
    with pytest.raises(DataError, match=r"labels from 0 to 5, but the model has 2 outputs"):
        fit(_net(), _task(train=(X[:6], torch.arange(6))), epochs=1)
    with pytest.raises(RecipeError, match=r"fit: epochs=0 must be at least 1"):
        fit(_net(), _task(), epochs=0)
    with pytest.raises(RunError, match="device 'tpu' is not available"):
        fit(_net(), _task(), epochs=1, context=Context(device="tpu"))


class _Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, left, right):
        return {"logits": self.layer(torch.cat([left, right], 1)), "extra": left}


@pytest.mark.parametrize("inputs", [
    {"left": X[:, :2], "right": X[:, 2:]}, (X[:, :2], X[:, 2:]),
])  # fmt: skip
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_keyword_and_tuple_inputs_and_dict_outputs(inputs, precision):
    torch.manual_seed(0)
    task = _task(model=_Named, train=(inputs, Y), val=(inputs, Y))
    assert fit(task.build(), task, epochs=4, lr=0.05, precision=precision).curve[-1]["value"] > 0.9


def test_frozen_parameters_do_not_move():
    model = _net()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, _task(), epochs=1, lr=0.1)
    assert torch.equal(model[0].weight, before)
