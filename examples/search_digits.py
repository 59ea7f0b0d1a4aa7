"""An objective for `paretune search`: train a small network on the digits for so many epochs, return its error.

    paretune search run examples/study.yaml

A run on a larger budget goes on where the last one of its configuration stopped.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from paretune.zoo import digits, normalise

DATA = {
    split: (
        torch.as_tensor(normalise(images, mean=[0.3], std=[0.38], scale=16.0)).flatten(1),
        torch.as_tensor(labels.astype(np.int64)),
    )
    for split, (images, labels) in digits().items()
}


def objective(config, budget, context):
    torch.manual_seed(context.seed)
    torch.set_num_threads(1)
    width, rate = config["width"], config["lr"]
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(width, 10)]
    network = nn.Sequential(*layers)
    if config["opt"] == "sgd":
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=config["momentum"])
    else:
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    kept = context.checkpoint_dir / "state.pt" if context.checkpoint_dir else None
    done = 0
    if kept and kept.exists():
        state = torch.load(kept, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    images, labels = DATA["train"]
    for epoch in range(done, budget):
        network.train()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(config["batch"]):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    if kept:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "done": budget}
        torch.save(state, kept)
    images, labels = DATA["val"]
    with torch.no_grad():
        wrong = network.eval()(images).argmax(1) != labels
    return {"loss": float(wrong.float().mean()), "parameters": sum(p.numel() for p in network.parameters())}
