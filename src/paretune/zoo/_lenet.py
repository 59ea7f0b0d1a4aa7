"""The LeNets on which compression has been compared since 2015.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE 1998,
doi:10.1109/5.726791; the widths of `lenet5` are those of Caffe, which Han et al. 2015 (arXiv:1506.02626) and all
that followed have used.
"""

from __future__ import annotations

from torch import nn


def lenet5(classes: int = 10) -> nn.Sequential:
    """Return an untrained LeNet-5 of Caffe: 20 and 50 channels of 5x5, then 500; 431,080 parameters.

    Input float32 (n, 1, 28, 28), output (n, classes).
    """
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * 4 * 4, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )


def lenet_300_100(classes: int = 10) -> nn.Sequential:
    """Return an untrained LeNet-300-100: three linear layers, 266,610 parameters.

    Input float32 (n, 1, 28, 28), output (n, classes).
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
