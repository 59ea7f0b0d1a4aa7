from itertools import cycle

import pytest
import torch
from torch import nn

from paretune.errors import RunError
from paretune.train import _compute
from paretune.train._compute import Compute, bfloat16_is_native, check_device, choose, in_float32

IMAGES = [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))]


def _net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))


def _objective(model, inputs, target):
    return {"loss": nn.functional.cross_entropy(model(inputs).float(), target)}


def _clock(monkeypatch, seconds):
    """Let each combination take the seconds given, in order of trial."""
    durations = iter(seconds)
    monkeypatch.setattr(_compute, "_time", lambda *_: next(durations))
    monkeypatch.setattr(_compute, "bfloat16_is_native", lambda device: True)


def test_the_fastest_of_the_four_is_taken(monkeypatch):
    _clock(monkeypatch, [0.1, 0.3, 0.06, 0.05])
    compute, timings = choose(_net(), _objective, IMAGES)
    assert compute == Compute("cpu", "bfloat16", "channels_last")
    assert timings == {
        "float32 contiguous": 100.0, "float32 channels_last": 300.0,
        "bfloat16 contiguous": 60.0, "bfloat16 channels_last": 50.0,
    }  # fmt: skip


def test_a_gain_below_a_tenth_is_not_worth_leaving_the_default(monkeypatch):
    _clock(monkeypatch, [0.1, 0.095, 0.093, 0.091])
    assert choose(_net(), _objective, IMAGES)[0] == Compute()


def test_what_is_given_is_not_tried(monkeypatch):
    _clock(monkeypatch, [0.2, 0.1])
    assert choose(_net(), _objective, IMAGES, precision="float32")[0] == Compute(layout="channels_last")
    given, timings = choose(_net(), _objective, IMAGES, precision="bfloat16", layout="contiguous")
    assert given == Compute(precision="bfloat16") and timings == {}


def test_layout_is_not_tried_without_images_nor_bfloat16_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(_compute, "bfloat16_is_native", lambda device: False)
    flat = [(torch.randn(4, 5), torch.zeros(4, dtype=torch.long))]
    assert choose(nn.Linear(5, 2), _objective, flat) == (Compute(), {})


def test_real_timings_leave_the_model_alone_and_are_positive():
    model = _net().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    _, timings = choose(model, _objective, IMAGES, precision="float32")
    assert set(timings) == {"float32 contiguous", "float32 channels_last"}
    assert all(t > 0 for t in timings.values())
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) and v.is_contiguous() for k, v in model.state_dict().items())


def test_a_combination_that_fails_is_left_out_but_the_default_must_work(monkeypatch):
    monkeypatch.setattr(_compute, "bfloat16_is_native", lambda device: True)

    def only_float32(model, inputs, target):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no kernel for bfloat16")
        return _objective(model, inputs, target)

    compute, timings = choose(_net(), only_float32, IMAGES, layout="contiguous")
    assert compute == Compute() and list(timings) == ["float32 contiguous"]
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        choose(nn.Linear(7, 2), _objective, IMAGES)


def test_bfloat16_computes_and_answers_in_float32():
    model, inputs = nn.Linear(64, 8), torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    half = Compute(precision="bfloat16").run(model)(inputs)
    full = Compute().run(model)(inputs)
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.02)
    assert model.weight.dtype == torch.float32


def test_channels_last_lays_out_weights_and_images_and_changes_no_value():
    compute = Compute(layout="channels_last")
    model, images = _net(), torch.randn(2, 3, 8, 8)
    expected = model(images)
    assert compute.place(model)[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert compute.put({"x": images})["x"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(compute.run(model)(images), expected)


def test_outputs_of_other_types_are_returned_as_they_are():
    output = {"logits": torch.ones(2), "classes": torch.ones(2, dtype=torch.long)}
    assert in_float32(output) is output
    mixed = in_float32({"logits": torch.ones(2).bfloat16(), "classes": output["classes"]})
    assert mixed["logits"].dtype == torch.float32 and mixed["classes"].dtype == torch.long


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_is_native_only_with_the_instructions(monkeypatch, flag):
    have = {"avx512_f": True, flag: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: have)
    assert bfloat16_is_native("cpu")
    have[flag] = False
    assert not bfloat16_is_native("cpu")
    assert not bfloat16_is_native("mps")


def test_a_device_that_is_not_there():
    check_device("cpu")
    with pytest.raises(RunError, match="device 'tpu' is not available on this machine; here you can use cpu"):
        check_device("tpu")


def test_the_trial_uses_the_batches_in_turn(monkeypatch):
    seen = []
    batches = [(torch.full((2, 3), float(i)), torch.zeros(2, dtype=torch.long)) for i in range(2)]

    def objective(model, inputs, target):
        seen.append(inputs[0, 0].item())
        return _objective(model, inputs, target)

    _compute._time(Compute(), nn.Linear(3, 2), objective, batches, ())
    expected = cycle([0.0, 1.0])
    assert seen == [next(expected) for _ in range(_compute.TRIAL_STEPS + 1)]
