"""ThiNet: greedy choice of the channels without which the next layer's output changes least.

Luo, Wu and Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", ICCV 2017,
section 3.2, arXiv:1707.06342.
Needs data, no labels, and no gradient. The paper samples a few outputs and positions of each image; here all of
them count, through their second moments, so that no activation is held.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.prune.scores._contributions import gram_of_contributions


def thinet(weight: Tensor, hessian: Tensor) -> Tensor:
    """Score every channel by the squared change of the reader's output when it goes, after all that go before it.

    Channels are taken away greedily (algorithm 1): at each step that with which the change stays least. The change
    may fall when errors cancel; a score is never below that of a channel that went before.

    weight: (units, out, *within), the reading weight with what it reads first; `within` is the kernel.
    hessian: (units * within, units * within), the second moment E[x x'] of what the weights multiply, the unit
        outermost.
    Returns (units,) float32, as a fraction of the squared output itself: readers compare as they are.

    >>> thinet(torch.tensor([[1.0], [2.0], [2.0]]), torch.eye(3))
    tensor([0.1111, 0.5556, 1.0000])
    """
    gram = gram_of_contributions(weight, hessian).cpu()  # a step at a time, which an accelerator would wait for
    total = float(gram.sum().clamp_min(torch.finfo(torch.float32).tiny))
    scores = torch.zeros(len(gram), dtype=torch.float32)
    added = gram.diagonal().clone()  # what each channel would add to the change if it went now
    error, last = 0.0, torch.tensor(0.0)
    for _ in range(len(gram)):
        worst = int(added.argmin())
        error += float(added[worst])
        last = torch.maximum(torch.tensor(error / total), torch.nextafter(last, torch.tensor(torch.inf)))
        scores[worst] = last
        added += 2 * gram[worst]
        added[worst] = torch.inf
    return scores.to(weight.device)
