"""How a model computes: device, precision and memory layout; and the choice of the fastest by trying.

No rule of thumb predicts it: on one CPU an epoch of ResNet-20 took 98 s in float32, 314 s in float32
channels-last, 50 s in bfloat16 channels-last, and the order differs between machines and networks. So a few
batches of each combination are timed, on a copy. Short trainings are not worth the trial and take the default.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn

from paretune.data import Batch, as_device, call, map_tensors, tensors_of
from paretune.errors import RunError

Objective = Callable[[nn.Module, Any, Any], dict[str, torch.Tensor]]
"""(model, inputs, target) -> the terms of the loss by name, scalars that are summed."""
TRIAL_STEPS = 3
WORTH_SWITCHING = 0.9
"""Another combination is taken if it needs at most this fraction of the default's time."""


@dataclass(frozen=True)
class Compute:
    """Where and how a model computes."""

    device: str = "cpu"
    precision: str = "float32"
    """`bfloat16` is autocast: the weights stay in float32."""
    layout: str = "contiguous"
    """Of four-dimensional weights and inputs: `contiguous` (NCHW) or `channels_last` (NHWC)."""

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch names it."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and lay out its weights, in place."""
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def put(self, value: Any) -> Any:
        """Return inputs or targets on the device, images in the layout."""
        return map_tensors(self._put, value)

    def _put(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 4 and tensor.is_floating_point():
            return tensor.to(self.device, memory_format=self.memory_format)
        return tensor.to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which forward passes and losses run."""
        kind = self.device.split(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")

    def run(self, model: nn.Module) -> Callable[[Any], Any]:
        """Return inputs -> outputs of a model that was placed, the outputs on the CPU in float32."""

        def forward(inputs: Any) -> Any:
            with self.autocast():
                output = in_float32(call(model, self.put(inputs)))
            return output if self.device == "cpu" else as_device(output, "cpu")

        return forward


def in_float32(output: Any) -> Any:
    """Return an output whose bfloat16 and float16 tensors are float32; any other output is returned as it is."""
    halves = (torch.bfloat16, torch.float16)
    if not any(tensor.dtype in halves for tensor in tensors_of(output)):
        return output
    return map_tensors(lambda tensor: tensor.float() if tensor.dtype in halves else tensor, output)


def bfloat16_is_native(device: str) -> bool:
    """Say whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    can: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(can.get(flag)) for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def choose(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Batch],
    *,
    companions: Sequence[nn.Module] = (),
    device: str = "cpu",
    precision: str = "auto",
    layout: str = "auto",
) -> tuple[Compute, dict[str, float]]:
    """Return the fastest way to compute, and milliseconds a step of each that was tried.

    The model is not changed; `companions`, which the objective calls, end in whatever layout was tried last.
    What is not `auto` is taken as given. A combination that fails is left out, unless it is the default.
    """
    trial = list(batches)
    ways = [Compute(device, p, m) for p, m in product(*_options(model, trial, device, precision, layout))]
    if len(ways) == 1:
        return ways[0], {}
    timings: dict[Compute, float] = {}
    for way in ways:
        try:
            timings[way] = _time(way, copy.deepcopy(model), objective, trial, companions)
        except (RuntimeError, TypeError, AttributeError):
            if way == ways[0]:
                raise
    fastest = min(timings, key=lambda way: timings[way])
    if timings[fastest] > WORTH_SWITCHING * timings[ways[0]]:
        fastest = ways[0]
    return fastest, {f"{w.precision} {w.layout}": round(1e3 * t, 3) for w, t in timings.items()}


def check_device(device: str) -> None:
    """Raise a RunError where the device that was asked for is not there."""
    kind = device.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        present = ", ".join(name for name, here in there.items() if here)
        raise RunError(f"device '{device}' is not available on this machine; here you can use {present}")


def _options(
    model: nn.Module, trial: list[Batch], device: str, precision: str, layout: str
) -> tuple[list[str], list[str]]:
    """Return the precisions and layouts that can matter for this model; the default comes first."""
    images = any(t.ndim == 4 for inputs, _ in trial for t in tensors_of(inputs))
    kernels = any(p.ndim == 4 for p in model.parameters())
    precisions, layouts = [precision], [layout]
    if precision == "auto":
        precisions = ["float32", "bfloat16"] if trial and bfloat16_is_native(device) else ["float32"]
    if layout == "auto":
        layouts = ["contiguous", "channels_last"] if images and kernels else ["contiguous"]
    return precisions, layouts


def _time(
    way: Compute, model: nn.Module, objective: Objective, trial: list[Batch], companions: Sequence[nn.Module]
) -> float:
    """Return the seconds of the fastest of a few forward and backward passes, after one to warm up."""
    for module in (model, *companions):
        way.place(module)
    model.train()
    fastest = float("inf")
    for step in range(TRIAL_STEPS + 1):
        inputs, target = trial[step % len(trial)]
        _synchronize(way.device)
        start = time.perf_counter()
        with way.autocast():
            loss = sum(objective(model, way.put(inputs), way.put(target)).values())
        loss.backward()  # type: ignore[union-attr]
        _synchronize(way.device)
        if step > 0:
            fastest = min(fastest, time.perf_counter() - start)
        model.zero_grad()
    return fastest


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
