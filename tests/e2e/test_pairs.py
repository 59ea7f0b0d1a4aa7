"""Everything composes: any step after any other, then quantized, exported, certified, saved and loaded."""

import itertools
from pathlib import Path

import pytest
import torch

from paretune.checkpoint import State
from paretune.data import call
from paretune.distill import Distill
from paretune.export import certify, export_onnx, save, strip
from paretune.masks import masked
from paretune.prune import (
    ActivationRange,
    Activations,
    Channels,
    Gradual,
    Greg,
    GroupLasso,
    Iterative,
    Learned,
    Neighbours,
    Sparse,
    Weights,
)
from paretune.quantize import Static
from paretune.recipe import Context, Step
from paretune.task import Task
from paretune.train import Train

FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "epochs": 1, "lr": 1e-3}
STEPS: dict[str, Step] = {
    "train": Train(**FIXED),
    "prune": Channels(ratio=0.3, recalibrate=64),
    "distill": Distill(**FIXED),
    "weights": Weights(ratio=0.6, recalibrate=64),
    "gradual": Gradual(ratio=0.6, every=1, **FIXED),
    "sparse": Sparse(strength=3.0, proximal=True, optimizer="sgd", **FIXED | {"lr": 0.01}),
    "learned": Learned(macs=0.7, rate=0.5, recalibrate=64, **FIXED),
    "group_lasso": GroupLasso(params=0.7, repair=64, **FIXED),
    "greg": Greg(params=0.7, repair=64, **FIXED),
    "neighbours": Neighbours(ratio=0.3, recalibrate=64),
    "activations": Activations(samples=64, recalibrate=64),
    "activation_range": ActivationRange(quantiles=(0.0, 0.999), threshold=0.01, samples=64),
    "iterative": Iterative(
        prune={"prune.channels": {"ratio": 0.3, "recalibrate": 64}},
        recover={"distill": FIXED},
        rounds=2,
        latency=False,
    ),
}
SMALLER = ("prune", "group_lasso", "greg", "neighbours", "learned", "iterative")


@pytest.mark.parametrize("pair", itertools.product(STEPS, repeat=2), ids="-".join)
def test_each_pair_of_steps_then_int8(pair: tuple[str, str], trained_task: Task, tmp_path: Path):
    teacher = trained_task.build().eval()
    context, model, cuts = Context(teacher=teacher), trained_task.build(), ()
    for name in pair:
        result = STEPS[name].apply(model, trained_task, context)
        model, cuts = result.model, (*cuts, *result.cuts)
    before = sum(p.numel() for p in teacher.parameters())
    after = sum(p.numel() for p in model.parameters())
    assert (after < before) == any(name in SMALLER for name in pair)
    sparse = [parameter for parameter in masked(model).values() if parameter.numel()]
    if (
        "weights" in pair or "gradual" in pair or "sparse" in pair
    ):  # a cut may take more of the zeros, or of the others
        zeros = sum(int((parameter == 0).sum()) for parameter in sparse)
        total = sum(parameter.numel() for parameter in sparse)
        assert zeros > 0.3 * total
        assert pair[-1] in SMALLER or zeros >= int(0.6 * total)
    else:
        assert not sparse

    State(model.state_dict(), cuts).save(tmp_path / "m.safetensors")
    loaded = State.load(tmp_path / "m.safetensors").onto(trained_task.build()).eval()
    inputs = trained_task.data("val").first(3)[0]
    with torch.no_grad():
        assert torch.equal(call(loaded, inputs), call(model.eval(), inputs))

    exported = export_onnx(loaded, trained_task.inputs())
    float_path, int8_path = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    save(strip(exported.graph), float_path)
    assert certify(float_path, loaded, trained_task, kind="float", exported=exported, split=None).ok
    graph = Static(calibration=32).apply_graph(exported.graph, trained_task, context)
    save(strip(graph), int8_path)
    certificate = certify(int8_path, loaded, trained_task, kind="int8", float_path=float_path, split=None)
    assert certificate.ok
    assert int8_path.stat().st_size < float_path.stat().st_size
