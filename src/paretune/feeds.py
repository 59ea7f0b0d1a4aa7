"""Inputs as a PyTorch model takes them -> inputs as an ONNX file takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paretune.data import tensors_of


def feeds(names: Sequence[str], inputs: Any) -> dict[str, np.ndarray]:
    """Return input name -> array, by key for a dict of keyword inputs, in order for everything else.

    names: the file's input names. Inputs that the exporter dropped because nothing reads them are left out.
    """
    if isinstance(inputs, Mapping):
        return {name: inputs[name].detach().cpu().numpy() for name in names if name in inputs}
    tensors = tensors_of(inputs)
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=False)}
