"""A 10-20-10 network with an L1 penalty on every parameter, biases too, then cut at a threshold.

    python examples/mynet_l1.py [strength] [threshold]

Each epoch prints its loss per sample, penalty included. The data are made here: ten clusters in ten features.
"""

import sys

import torch
from torch import nn

from paretune import Task
from paretune.evaluation import evaluate
from paretune.prune import sparse, weights
from paretune.recipe import Context

EPOCHS, SAMPLES, CLASSES, FEATURES = 20, 2000, 10, 10


def clusters(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (n, 10) float32 features and (n,) class numbers: a cluster around a random centre for each class."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    return centres[labels] + torch.randn(SAMPLES, FEATURES, generator=generator), labels


def make_model() -> nn.Module:
    """Return the untrained network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 20), nn.ReLU(), nn.Linear(20, CLASSES))


def make_task() -> Task:
    """Return the task."""
    return Task(name="mynet", model=make_model, train=clusters(1), val=clusters(2), batch_size=50)


def main(strength: float = 1e-3, threshold: float = 0.01) -> None:
    """Train, threshold, and tell what is left."""
    task = make_task()

    def listen(kind: str, fields: dict[str, float]) -> None:
        if kind == "epoch":
            print(f"[{fields['epoch']}] train loss: {fields['loss']:.3f}")

    how = {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.0, "schedule": "constant", "epochs": EPOCHS}
    trained = sparse(task.build(), task, strength=strength, names="*", **how, context=Context(emit=listen))
    pruned = weights(trained.model, threshold=threshold, names="*")
    for name, model in (("trained", trained.model), (f"threshold {threshold:g}", pruned.model)):
        accuracy = evaluate(model, task.data("val"), task.resolved_metric())
        left = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
        print(
            f"{name}: {left} of {pruned.before['params']} parameters left, accuracy {100 * accuracy.value:.1f} %"
        )


if __name__ == "__main__":
    main(*map(float, sys.argv[1:3]))
