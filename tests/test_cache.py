"""The store: the same input hits, and a changed digit in any of them misses."""

import copy
import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from paretune.cache import Store, fingerprint, step_key
from paretune.checkpoint import State
from paretune.cuts import Cuts
from paretune.errors import InputError
from paretune.recipe import Context, Step
from paretune.task import Task


@dataclass(frozen=True, kw_only=True)
class Nudge(Step):
    name: ClassVar[str] = "nudge"
    uses_data = ("train",)
    uses_teacher = True
    amount: float = 0.1


def task(**changes: Any) -> Task:
    x = torch.arange(12.0).reshape(4, 3)
    fields: dict[str, Any] = {"model": nn.Linear(3, 2), "train": (x, torch.tensor([0, 1, 0, 1])), "example": x[:1]}
    return Task(**(fields | changes))


def loss_a(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.sum() * 1.0


def loss_b(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.sum() * 1.1


def scaled_loss(scale: float) -> Callable[[Any, Any], torch.Tensor]:
    return lambda output, target: scale * output.sum()


WEIGHTS = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
TEACHER, LINEAR = nn.Linear(3, 2), nn.Linear(3, 2)


def key(
    step: Step = Nudge(), weights: dict[str, torch.Tensor] = WEIGHTS, cuts: tuple[Cuts, ...] = (),
    of: Task | None = None, model: nn.Module | None = None, **context: Any,
) -> str:  # fmt: skip
    context = {"teacher": TEACHER} | context
    return step_key(step, State(weights, cuts), model or LINEAR, of or task(), Context(**context))


def nudged(name: str) -> dict[str, torch.Tensor]:
    changed = {key: tensor.clone() for key, tensor in WEIGHTS.items()}
    flat = changed[name].reshape(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))
    return changed


def test_equal_inputs_have_equal_keys():
    assert key() == key()


def other_teacher() -> nn.Module:
    teacher = nn.Linear(3, 2)
    teacher.load_state_dict({name: t + 1e-7 for name, t in TEACHER.state_dict().items()})
    return teacher


@pytest.mark.parametrize(
    "changed",
    [
        lambda: key(step=Nudge(amount=0.1000001)),
        lambda: key(weights=nudged("weight")),
        lambda: key(weights=nudged("bias")),
        lambda: key(cuts=(Cuts(shapes={}),)),
        lambda: key(seed=1),
        lambda: key(device="meta"),
        lambda: key(of=task(train=(torch.arange(12.0).reshape(4, 3) + 1e-6, torch.tensor([0, 1, 0, 1])))),
        lambda: key(of=task(train=(torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 1, 1])))),
        lambda: key(of=task(loss="mse")),
        lambda: key(of=task(loss=loss_a)),
        lambda: key(of=task(batch_size=2)),
        lambda: key(model=nn.Linear(3, 2, bias=False)),
        lambda: key(teacher=other_teacher()),
        lambda: key(teacher=None),
    ],
)
def test_a_changed_digit_in_any_input_misses(changed: Callable[[], str]):
    assert changed() != key()


def test_the_code_of_a_loss_is_part_of_the_key():
    assert key(of=task(loss=loss_a)) != key(of=task(loss=loss_b))
    assert key(of=task(loss=scaled_loss(1.0))) != key(of=task(loss=scaled_loss(1.5)))
    assert key(of=task(loss=scaled_loss(1.0))) == key(of=task(loss=scaled_loss(1.0)))


class Scaled(nn.Linear):
    def __init__(self, scale: float = 2.0, mask: float = 1.0):
        super().__init__(3, 2)
        self.scale = scale
        self.register_buffer("mask", torch.tensor(mask), persistent=False)


class Shifted:
    def __init__(self, by: int):
        self.by = by

    def __call__(self, inputs: Any, generator: Any) -> Any:
        return inputs + self.by


def weighted(output: Any, target: Any, weight: Any) -> Any:
    return (output * weight).sum()


def defaulted(scale: float) -> Callable[[Any, Any], Any]:
    def loss(output: Any, target: Any, scale: float = scale) -> Any:
        return scale * output.sum()

    return loss


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Scaled(2.0), Scaled(3.0)),
        (Scaled(mask=1.0), Scaled(mask=0.0)),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
        (nn.CrossEntropyLoss(weight=torch.ones(2000)), nn.CrossEntropyLoss(weight=torch.ones(2000) * 2)),
        (Shifted(1), Shifted(2)),
        (Shifted(1).__call__, Shifted(2).__call__),
        (defaulted(1.0), defaulted(2.0)),
        (partial(weighted, weight=torch.ones(5000)), partial(weighted, weight=torch.ones(5000).cumsum(0))),
        (lambda output, target: output.sum(), lambda output, target: output.mean()),
        ({"lr": 1e-3}, {"lr": 1e-4}),
        (torch.float32, torch.float64),
    ],
)  # fmt: skip
def test_code_and_state_of_anything_are_told_apart(one: Any, other: Any):
    torch.manual_seed(0)
    for thing in (one, other):
        if isinstance(thing, Scaled):
            nn.init.ones_(thing.weight), nn.init.ones_(thing.bias)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(copy.deepcopy(one)) == fingerprint(one)


def test_an_edited_forward_misses(tmp_path: Path):
    prints = []
    for number, factor in enumerate((1, 2)):
        path = tmp_path / f"v{number}" / "net.py"
        path.parent.mkdir()
        code = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x * "
        path.write_text(f"{code}{factor}\n")
        spec = importlib.util.spec_from_file_location("net", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["net"] = module
        spec.loader.exec_module(module)
        prints.append(fingerprint(module.Net()))
        del sys.modules["net"]
    assert prints[0] != prints[1]


def test_a_fingerprint_is_the_same_in_another_process():
    code = (
        "from torch import nn; from paretune.cache import fingerprint\n"
        "print(fingerprint((nn.ReLU(), {'a', 'b', 'c'}, print)))"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert len(runs.pop().strip()) == 64


def test_a_cache_that_cannot_be_written_is_said_and_left_alone(tmp_path: Path):
    (tmp_path / "shared").write_text("a file, not a folder")
    said: list[str] = []
    store = Store(tmp_path / "a", tmp_path / "shared", warn=said.append)
    store.save("k" * 64, "s", state(1.0))
    assert "cannot be written" in said[0]
    assert store.load("k" * 64, "s") is not None


def test_the_steps_own_source_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch):
    before = key()
    monkeypatch.setattr("paretune.cache._own_source", lambda: "edited")
    assert key() != before


def state(value: float, size: int = 4) -> State:
    return State({"w": torch.full((size,), value)}, notes=("n",), seconds=2.0)


def test_a_stored_result_is_found_by_the_next_run(tmp_path: Path):
    Store(tmp_path / "a", tmp_path / "shared").save("k" * 64, "01-nudge", state(1.5))
    found = Store(tmp_path / "b", tmp_path / "shared").load("k" * 64, "01-nudge")
    assert found is not None
    assert torch.equal(found.tensors["w"], state(1.5).tensors["w"])
    assert found.seconds == 2.0
    assert Store(tmp_path / "b", None).path("k" * 64, "01-nudge").is_file()  # the run folder stands alone
    assert Store(tmp_path / "c", tmp_path / "shared").load("j" * 64, "01-nudge") is None


def test_without_a_shared_cache_only_the_run_itself_is_asked(tmp_path: Path):
    Store(tmp_path / "a", None).save("k" * 64, "s", state(1.0))
    assert Store(tmp_path / "b", None).load("k" * 64, "s") is None
    assert Store(tmp_path / "a", None).load("k" * 64, "s") is not None


def test_a_damaged_entry_is_set_aside_and_said(tmp_path: Path):
    said: list[str] = []
    store = Store(tmp_path / "a", None, warn=said.append)
    store.save("k" * 64, "s", state(1.0))
    path = store.path("k" * 64, "s")
    path.write_bytes(path.read_bytes()[:-3])
    assert store.load("k" * 64, "s") is None
    assert not path.exists()
    assert "going on from the step before" in said[0]


def test_the_shared_cache_keeps_to_its_limit_and_drops_the_oldest(tmp_path: Path):
    import os

    store = Store(tmp_path / "a", tmp_path / "shared", limit_bytes=100_000)
    for index, name in enumerate("abc"):
        store.save(name * 64, "s", state(1.0, size=10_000))
        os.utime(tmp_path / "shared" / (name * 2) / f"{name * 64}.safetensors", (index, index))
    store = dataclasses.replace(store, folder=tmp_path / "z")
    store.save("d" * 64, "s", state(1.0, size=10_000))
    left = sorted(path.stem[0] for path in (tmp_path / "shared").rglob("*.safetensors"))
    assert left == ["c", "d"]


def test_the_limit_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PARETUNE_CACHE_LIMIT", "1.5MB")
    assert Store(tmp_path, None).limit_bytes == 1_500_000
    monkeypatch.setenv("PARETUNE_CACHE_LIMIT", "much")
    with pytest.raises(InputError, match="PARETUNE_CACHE_LIMIT='much' is no amount"):
        Store(tmp_path, None)
