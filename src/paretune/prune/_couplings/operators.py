"""What operator a node of a captured graph calls, by name."""

from __future__ import annotations

from typing import Any

from torch import fx


def operator_of(node: Any) -> str:
    """Return the name of ATen's operator, `add` of `aten.add_.Tensor`: no namespace, overload, mark of in-place.

    Another library's operator keeps its namespace; what calls no operator gives an empty name.
    """
    schema = getattr(node.target, "_schema", None) if isinstance(node, fx.Node) else None
    return str(schema.name).removeprefix("aten::").rstrip("_") if schema else ""
