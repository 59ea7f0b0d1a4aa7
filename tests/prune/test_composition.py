"""Every step works after every other, whether a pruned model is the user's own module or its graph."""

import inspect
import itertools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune.checkpoint import State
from paretune.distill import Distill
from paretune.errors import InfeasibleError
from paretune.export import certify, export_onnx, run_file, save, strip
from paretune.prune import Blocks, Channels
from paretune.quantize import Static
from paretune.recipe import Context
from paretune.task import Task
from paretune.train import Train


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class Net(nn.Module):
    """A residual network whose head is written for 8 channels: its code does not follow a cut of the stream."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = nn.Conv2d(1, 8, 3, 2, 1), nn.Sequential(*[Block(8) for _ in range(3)])
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8 * 16, 4)

    def forward(self, x):
        return self.head(self.drop(self.blocks(self.stem(x)).view(-1, 8 * 16)))


def images(seed, count):
    generator = torch.Generator().manual_seed(seed)
    images, labels = 0.3 * torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :] += 1.0
    return images, labels


@pytest.fixture(scope="module")
def task():
    return Task(name="quarters", model=Net, train=images(1, 64), val=images(2, 32), test=images(3, 32))


TRAINS = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "epochs": 1, "lr": 1e-3}
STEPS = {
    "train": Train(**TRAINS),
    "distill": Distill(**TRAINS),
    "blocks": Blocks(count=1, samples=32, recalibrate=32),
    "channels": Channels(ratio=0.2, protect=("stem",), repair=32),
    "graph": Channels(ratio=0.2, form="graph", repair=0, recalibrate=32),
    "auto": Channels(ratio=0.3, scope="local", repair=0, recalibrate=0),
}


def walk(task, names):
    """Apply steps to a fresh model; return it, every manifest, and the forms."""
    model, cuts, context = task.build(), (), Context(teacher=task.build().eval())
    for name in names:
        before = sum(parameter.numel() for parameter in model.parameters())
        result = STEPS[name].apply(model, task, context)
        model, cuts = result.model, (*cuts, *result.cuts)
        after = sum(parameter.numel() for parameter in model.parameters())
        assert after < before if name in ("blocks", "channels", "graph") else after <= before
    return model.eval(), cuts


def reloaded(task, model, cuts, folder):
    State(model.state_dict(), cuts).save(folder / "model.safetensors")
    return State.load(folder / "model.safetensors").onto(task.build()).eval()


FORMS = {"channels": "module", "graph": "graph", "auto": "graph"}
PAIRS = [
    *(pair for pair in itertools.product(("train", "blocks", "channels", "graph"), repeat=2)),
    *(("auto", "auto"), ("auto", "channels"), ("channels", "auto")),
    *(("distill", "graph"), ("graph", "distill"), ("blocks", "distill"), ("distill", "blocks")),
]
PAIRS = [pair for pair in PAIRS if pair not in {("train", "train"), ("graph", "blocks")}]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_any_step_after_any_other_is_read_back_from_a_file(pair, task, tmp_path):
    model, cuts = walk(task, pair)
    assert [c.form for c in cuts if not c.removed] == [FORMS[name] for name in pair if name in FORMS]
    loaded = reloaded(task, model, cuts, tmp_path)
    with torch.no_grad():
        for batch in (1, 3):
            assert torch.equal(loaded(images(4, batch)[0]), model(images(4, batch)[0]))


@pytest.mark.parametrize("form", ["graph", "auto"])
def test_blocks_come_before_the_graph_and_that_is_said(form, task):
    model, _ = walk(task, [form])
    with pytest.raises(
        InfeasibleError, match=r"rewritten graph, which calls no blocks; .*: prune.blocks before"
    ) as e:
        STEPS["blocks"].apply(model, task, Context())
    assert e.value.exit_code == 3


CHAINS = [("train", "blocks", "channels", "train"), ("blocks", "graph", "train")]


@pytest.fixture(scope="module")
def walked(task):
    return [walk(task, names) for names in CHAINS]


@pytest.mark.parametrize("chain", range(len(CHAINS)))
def test_what_comes_out_is_exported_quantized_and_certified(chain, walked, task, tmp_path):
    model, cuts = walked[chain]
    loaded = reloaded(task, model, cuts, tmp_path)
    exported = export_onnx(loaded, task.inputs())
    float_path, int8_path = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    save(strip(exported.graph), float_path)
    assert certify(float_path, loaded, task, kind="float", exported=exported, split=None).ok
    save(strip(Static(calibration=32).apply_graph(exported.graph, task, Context())), int8_path)
    assert certify(int8_path, loaded, task, kind="int8", float_path=float_path, split=None).ok
    inputs = images(5, 2)[0]
    torch.testing.assert_close(run_file(float_path, inputs), model(inputs).detach(), rtol=1e-4, atol=1e-4)


HEADER = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n"
FRESH = """
import sys, torch
from pathlib import Path
from paretune.checkpoint import State
from net import Net
torch.set_num_threads(1)
for path in map(Path, sys.argv[1:]):
    state = State.load(path)
    expected = state.tensors.pop("expected")
    model = state.onto(Net()).eval()
    with torch.no_grad():
        assert torch.equal(model(torch.linspace(-1, 1, 128).view(2, 1, 8, 8)), expected), path
    print(path.name)
assert not [name for name in sys.modules if name.startswith(("paretune.prune", "torch.export._trace"))]
"""


def test_both_forms_are_read_in_a_fresh_process_without_the_exporter(walked, tmp_path):
    (tmp_path / "net.py").write_text(HEADER + inspect.getsource(Block) + "\n\n" + inspect.getsource(Net))
    paths = [tmp_path / f"{i}.safetensors" for i in range(len(CHAINS))]
    for (model, cuts), path in zip(walked, paths, strict=True):
        with torch.no_grad():
            expected = model(torch.linspace(-1, 1, 128).view(2, 1, 8, 8))
        State({**model.state_dict(), "expected": expected}, cuts).save(path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *map(str, paths)], capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == [path.name for path in paths], done.stderr
