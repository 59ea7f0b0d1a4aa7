"""What every test may use: one thread, the real data where they lie, and two small tasks on the bundled digits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Small models run fastest on one thread, and equal seeds give equal bits; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import torch

from paretune.task import Task
from paretune.zoo import digits as read_digits
from paretune.zoo import digits_net, normalise

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine is no failure. CI judges a change by the examples it judged the last one by, at home by new ones.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep finished steps apart from the user's own cache, for child processes too."""
    os.environ["PARETUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data beside the repository; skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder / 'data'}")
    return folder


@pytest.fixture(scope="session")
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the bundled digits as a network takes them: float32 (n, 1, 8, 8) and int64 labels, by split."""
    return {
        split: (normalise(images, mean=[0.3], std=[0.38], scale=16.0), labels.astype(np.int64))
        for split, (images, labels) in read_digits().items()
    }


def _tiny_net() -> torch.nn.Module:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = digits_net(width=8)
    torch.set_rng_state(state)
    return net


@pytest.fixture
def tiny_task(digits: dict[str, tuple[np.ndarray, np.ndarray]]) -> Task:
    """Return a task on the digits with a factory of an untrained net of 8-16-32-32 channels (0.1 s an epoch)."""
    return Task(name="tiny", model=_tiny_net, example=torch.from_numpy(digits["val"][0][:1]), **digits)


@pytest.fixture(scope="session")
def trained_net(digits: dict[str, tuple[np.ndarray, np.ndarray]]) -> torch.nn.Module:
    """Return the tiny net, trained by a plain loop to about 97 %; treat it as read-only."""
    net, (inputs, labels) = _tiny_net().train(), map(torch.from_numpy, digits["train"])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(12):
        for batch in torch.randperm(len(inputs), generator=generator).split(32):
            loss = torch.nn.functional.cross_entropy(net(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@pytest.fixture
def trained_task(digits: dict[str, tuple[np.ndarray, np.ndarray]], trained_net: torch.nn.Module) -> Task:
    """Return the tiny task with the trained net as its model."""
    return Task(name="trained", model=trained_net, example=torch.from_numpy(digits["val"][0][:1]), **digits)
