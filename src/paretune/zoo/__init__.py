"""Small reference networks, readers of real data formats, and the task of the demo.

Readers return plain arrays and say what is wrong with a damaged file; they download nothing. Nothing else in
paretune needs this package: only the command line imports it, for `paretune demo`.
"""

from __future__ import annotations

from paretune.zoo._cifar10 import cifar10
from paretune.zoo._csv import Table, csv
from paretune.zoo._demo import make_demo_task
from paretune.zoo._digits import digits
from paretune.zoo._digits_net import digits_net
from paretune.zoo._idx import idx
from paretune.zoo._image_folder import image_folder
from paretune.zoo._lenet import lenet5, lenet_300_100
from paretune.zoo._normalise import normalise
from paretune.zoo._npz import npz
from paretune.zoo._resnet_cifar import load_resnet_cifar, resnet_cifar
from paretune.zoo._wav import wav

__all__ = [
    "Table",
    "cifar10",
    "csv",
    "digits",
    "digits_net",
    "idx",
    "image_folder",
    "lenet5",
    "lenet_300_100",
    "load_resnet_cifar",
    "make_demo_task",
    "normalise",
    "npz",
    "resnet_cifar",
    "wav",
]
