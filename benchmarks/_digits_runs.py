"""Training of a small perceptron on scikit-learn's digits, as an objective for paretune and for Optuna.

600 images to train on, 800 to choose by: the loss is the part of these that is wrong. A run can go on where one of
fewer epochs stopped.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

EPOCHS = (1, 3, 9, 27)
TRAINED, CHOSEN_BY = 600, 800


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return images (1797, 64) and classes, always in the same order."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return torch.tensor(images[order] / 16, dtype=torch.float32), torch.tensor(classes[order])


class Training:
    """A run under way."""

    def __init__(self, config: dict[str, Any], seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed % 2**31)
        widths = [64] + [config["width"]] * config["layers"]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config["dropout"])]
        self.model = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=config["lr"], momentum=config["momentum"], weight_decay=config["decay"]
        )
        self.batch, self.epochs = config["batch"], 0

    def go_on(self, epochs: int) -> float:
        """Train up to so many epochs in all, and return the part of the validation images that is wrong."""
        images, classes = digits()
        self.model.train()
        while self.epochs < epochs:
            for chosen in torch.split(torch.randperm(TRAINED), self.batch):
                self.optimizer.zero_grad()
                loss: Any = nn.functional.cross_entropy(self.model(images[chosen]), classes[chosen])
                loss.backward()
                self.optimizer.step()
            self.epochs += 1
        self.model.eval()
        rest = slice(TRAINED, TRAINED + CHOSEN_BY)
        with torch.no_grad():
            return float((self.model(images[rest]).argmax(1) != classes[rest]).float().mean())

    def save(self, path: Path) -> None:
        """Write where it is."""
        torch.save([self.model.state_dict(), self.optimizer.state_dict(), self.epochs], path)

    def load(self, path: Path) -> None:
        """Go on from there."""
        model, optimizer, self.epochs = torch.load(path)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)


def objective(config: dict[str, Any], budget: int, context: Any) -> float:
    """Train for `budget` epochs in all, from where the last run of the configuration stopped."""
    training, path = Training(config, context.seed), context.checkpoint_dir / "state.pt"
    if path.exists():
        training.load(path)
    loss = training.go_on(budget)
    training.save(path)
    return loss


def optuna_worker(storage: str, kind: str, seed: int, until: float) -> None:
    """Run trials of a study that is shared through a file, until a time of `time.time()`."""
    import time

    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = optuna.samplers
    sampler = samplers.RandomSampler(seed=seed) if kind == "random" else samplers.TPESampler(seed=seed)
    halved = kind == "optuna_hyperband"
    pruner = optuna.pruners.HyperbandPruner(EPOCHS[0], EPOCHS[-1], 3) if halved else optuna.pruners.NopPruner()
    journal = optuna.storages.JournalStorage(JournalFileBackend(storage))
    study = optuna.create_study(
        storage=journal, study_name="digits", load_if_exists=True, sampler=sampler, pruner=pruner
    )

    def trial_of(trial: Any) -> float:
        config = {
            "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
            "momentum": trial.suggest_float("momentum", 0.0, 0.99),
            "batch": trial.suggest_int("batch", 8, 256, log=True),
            "width": trial.suggest_int("width", 16, 512, log=True),
            "layers": trial.suggest_int("layers", 1, 3),
            "dropout": trial.suggest_float("dropout", 0.0, 0.6),
            "decay": trial.suggest_float("decay", 1e-6, 1e-1, log=True),
        }
        training, loss = Training(config, seed * 100_003 + trial.number), 1.0
        for epochs in EPOCHS if halved else EPOCHS[-1:]:
            loss = training.go_on(epochs)
            trial.report(loss, epochs)
            if halved and epochs < EPOCHS[-1] and trial.should_prune():
                raise optuna.TrialPruned
        return loss

    study.optimize(trial_of, timeout=max(0.0, until - time.time()))
