"""Small networks, their exports, and graphs written by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn
from torch.nn import functional

from paretune.export import export_onnx

Run = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="session")
def run() -> Run:
    """Return a function (model, feeds, optimize=True) -> outputs."""

    def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, optimize: bool = True) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return list(session.run(None, feeds))

    return run


@pytest.fixture
def kernels(tmp_path) -> Callable[[onnx.ModelProto], Counter[str]]:
    """Return a function model -> how many of each operator ONNX Runtime really runs, after its optimisation."""

    def kernels(model: onnx.ModelProto) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)

    return kernels


def text_graph(text: str, **initializers: Any) -> onnx.ModelProto:
    """Return a model of ONNX's text form, `(float[N,4] x) => (float[N,2] y) { ... }`, with these initializers."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> graph {text}')
    for name, values in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., onnx.ModelProto]:
    return text_graph


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class Residual(nn.Module):
    """Convolutions, identity and option-A shortcuts, average pool over the plane, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = block(3, 16), block(16, 16), block(16, 32, stride=2)
        self.last = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = functional.relu(self.one(x) + x)
        x = functional.relu(self.last(self.two(x)) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Mobile(nn.Module):
    """Depthwise and grouped convolutions, squeeze and excitation, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(block(3, 16, stride=2), block(16, 16, groups=16), block(16, 32, 1, groups=2))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1))
        self.out = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = functional.hardswish(self.out(x * torch.sigmoid(self.gate(x))))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenation, small average and max pools with the ReLU behind, channel shuffle, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.up = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 4, 2, 2)
        self.head = nn.Linear(16 * 16, 6)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = functional.relu(functional.max_pool2d(self.a(x), 2))
        x = torch.cat([x, functional.relu(self.b(x))], 1)
        x = x.view(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8)
        x = functional.avg_pool2d(functional.relu(self.c(x)), 2)
        return {"logits": self.head(x.flatten(1)), "map": self.up(x)}


class Words(nn.Module):
    """Token ids and a waveform: an embedding, a 1-d convolution, attention, matrix products with 3-d inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, activation="gelu")
        self.wave = nn.Conv1d(2, 32, 5, padding=2)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor, wave: torch.Tensor) -> torch.Tensor:
        tokens = self.layer(self.embed(ids)) + functional.relu(self.wave(wave)).transpose(1, 2)
        return self.head(tokens).mean(1)


NETS: dict[str, tuple[type[nn.Module], dict[str, tuple[int, ...]]]] = {
    "residual": (Residual, {"x": (3, 16, 16)}),
    "mobile": (Mobile, {"x": (3, 32, 32)}),
    "dense": (Dense, {"x": (3, 16, 16)}),
    "words": (Words, {"ids": (12,), "wave": (2, 12)}),
}


def random_net(name: str) -> nn.Module:
    """Return one of NETS with random weights and random batch-norm statistics, always the same."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = NETS[name][0]().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    torch.set_rng_state(state)
    return net


def random_feeds(name: str, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random inputs of one of NETS: normal floats, ids below 50."""
    rng = np.random.default_rng(seed)
    return {
        key: rng.integers(0, 50, (batch, *shape))
        if key == "ids"
        else rng.normal(size=(batch, *shape)).astype(np.float32)
        for key, shape in NETS[name][1].items()
    }


@pytest.fixture(scope="session")
def feeds_of() -> Callable[..., dict[str, np.ndarray]]:
    return random_feeds


@pytest.fixture(scope="session")
def exported() -> Callable[[str], onnx.ModelProto]:
    """Return a function name of a net -> its float graph, exported once."""
    made: dict[str, onnx.ModelProto] = {}

    def exported(name: str) -> onnx.ModelProto:
        if name not in made:
            example = tuple(torch.from_numpy(value) for value in random_feeds(name, 2).values())
            made[name] = export_onnx(random_net(name), example).graph
        copied = onnx.ModelProto()
        copied.CopyFrom(made[name])
        return copied

    return exported
