"""One rule per ATen operator, in tables by kind; a new operator is a new row.

A rule takes (couplings, node, arguments) and returns the axes of the output; on the way it states what must be
cut together and what cannot be cut. `torch.Tag.pointwise` gives a default for operators that work elementwise.
In-place variants (`relu_`) and overloads (`add.Tensor`, `add.Scalar`) share the row of their base name: the
output takes over the units of what it overwrites, so a coupling made through a view holds for its base.
"""

from __future__ import annotations

from typing import Any

import torch

from paretune.prune._couplings.couplings import Rule
from paretune.prune._couplings.rules import (
    contraction,
    joining,
    lookup,
    norm,
    pointwise,
    reduction,
    reshape,
    spatial,
    weighted,
)

TABLE: dict[str, Rule] = {
    **pointwise.RULES,
    **spatial.RULES,
    **joining.RULES,
    **lookup.RULES,
    **reshape.RULES,
    **reduction.RULES,
    **norm.RULES,
    **weighted.RULES,
    **contraction.RULES,
}


def rule_of(target: Any) -> Rule | None:
    """Return the rule of an operator, None where there is none."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = target._schema.name.removeprefix("aten::")
    if not target._schema.name.startswith("aten::"):
        return TABLE.get(name)
    base = name.rstrip("_") if name not in TABLE else name
    if base in TABLE:
        return TABLE[base]
    # an operator in place does not carry the tag of the one that it is the variant of
    same = getattr(torch.ops.aten, base, None)
    variants = [target, *(getattr(same, overload) for overload in same.overloads())] if same else [target]
    return pointwise.elementwise if any(torch.Tag.pointwise in v.tags for v in variants) else None


__all__ = ["TABLE", "rule_of"]
