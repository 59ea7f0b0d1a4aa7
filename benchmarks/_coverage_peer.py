"""The same models pruned by torch-pruning, with the help that its own examples give by hand.

What they do, model by model, is done here for all: the classifier is named, attention heads are given, channels
are rounded to the number of heads in a ViT, heads (text) or head widths (images) go, attention is the plain one,
and the numbers that a module keeps of its own widths are set after the cut. Sources: VainF/Torch-Pruning,
examples/torchvision_models, examples/transformers/prune_hf_{bert,vit,swin}.py, examples/LLMs/prune_llm.py,
examples/timm_models/prune_timm_models.py.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.metadata import version
from typing import Any

os.environ["TIMM_FUSED_ATTN"] = "0"

import torch_pruning as tp
from torch import nn

from _coverage_checks import trains
from _coverage_cut import count
from _coverage_models import CLASSES, VOCABULARY, build
from _coverage_oracle import outputs

RATIO = 0.5
QKV = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
FUSED = ("qkv", "qkv_proj", "query_key_value", "Wqkv")
TEXT_OUTPUTS = {CLASSES, VOCABULARY}
OUTPUTS = {
    "torchvision": {1000},
    "segmentation": {21},
    "video": {400},
    "timm": {1000},
    "transformers": TEXT_OUTPUTS,
}


def peer_row(name: str) -> dict[str, Any]:
    """Prune one model; `status` says how far it came. Stages are told on stderr, for a run that is cut short."""
    model, inputs = build(name, attention="eager")
    row: dict[str, Any] = {"name": name, "version": version("torch-pruning"), "params": count(model)}
    shapes = [tensor.shape for tensor in outputs(model, inputs(2))]
    reference, _ = build(name, attention="eager")
    start = time.monotonic()
    stage = "graph"
    try:
        _tell(stage)
        helps = _helps(name, model)
        pruner = tp.pruner.MetaPruner(
            model,
            inputs(1),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            global_pruning=False,
            **helps,
        )
        row["graph_s"], stage = round(time.monotonic() - start, 2), "cut"
        _tell(stage)
        for group in pruner.step(interactive=True):
            group.prune()
        _set_widths(model, pruner, helps["prune_num_heads"])
        row["cut_s"], stage = round(time.monotonic() - start - row["graph_s"], 2), "forward"
        _tell(stage)
        got = [tensor.shape for tensor in outputs(model.eval(), inputs(2))]
    except Exception as error:
        return row | {"status": f"exception: {stage}", "error": _text(error)}
    row["params_after"] = count(model)
    row["left"] = row["params_after"] / row["params"]
    if got != shapes:
        return row | {"status": "another output shape", "error": f"{shapes} became {got}"}
    if row["params_after"] == row["params"]:
        return row | {"status": "nothing removed"}
    try:
        trains(reference, model, inputs(2))
        row["trains"] = True
    except Exception as error:
        row |= {"trains": False, "error": _text(error)}
    return row | {"status": "ok"}


def _tell(stage: str) -> None:
    print(f"stage: {stage}", file=sys.stderr, flush=True)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _helps(name: str, model: nn.Module) -> dict[str, Any]:
    """Return the arguments that torch-pruning's examples pass for such a model."""
    sizes = OUTPUTS[name.partition("/")[0]]
    ignored = [
        module
        for module in model.modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) in sizes
    ]
    heads: dict[nn.Module, int] = {}
    groups: dict[nn.Module, int] = {}
    round_to = None
    for module in model.modules():
        for layer, number in _attention(module):
            heads[layer] = number
        if isinstance(module, nn.MultiheadAttention):
            round_to = module.num_heads
        if hasattr(module, "gate_up_proj") and isinstance(module.gate_up_proj, nn.Linear):
            groups[module.gate_up_proj] = 2
    whole_heads = name.startswith("transformers/") and not any("patch" in n for n, _ in model.named_modules())
    return {
        "ignored_layers": ignored,
        "num_heads": heads,
        "out_channel_groups": groups,
        "prune_num_heads": whole_heads,
        "prune_head_dims": not whole_heads,
        "head_pruning_ratio": RATIO,
        "round_to": 4 if whole_heads and any(hasattr(m, "q_proj") for m in model.modules()) else round_to,
    }


def _attention(module: nn.Module) -> list[tuple[nn.Module, int]]:
    """Return the projections of an attention module with their numbers of heads."""
    config = getattr(module, "config", None)
    number = next(
        (
            int(value)
            for owner in (module, config)
            for key in ("num_attention_heads", "num_heads", "n_heads")
            if isinstance(value := getattr(owner, key, None), int)
        ),
        0,
    )
    if not number:
        return []
    for names in QKV:
        layers = [getattr(module, name, None) for name in names]
        if all(isinstance(layer, nn.Linear) for layer in layers):
            shared = int(getattr(config, "num_key_value_heads", None) or number)
            return list(zip(layers, (number, shared, shared), strict=True))  # type: ignore[arg-type]
    fused = [getattr(module, name) for name in FUSED if isinstance(getattr(module, name, None), nn.Linear)]
    return [(layer, number) for layer in fused]


def _set_widths(model: nn.Module, pruner: Any, whole_heads: bool) -> None:
    """Set what modules remember of their own widths, as the examples do."""
    for module in model.modules():
        if hasattr(module, "hidden_dim") and hasattr(module, "conv_proj"):  # torchvision's ViT
            module.hidden_dim = module.conv_proj.out_channels
        found = _attention(module)
        if not found:
            continue
        layer, number = found[0][0], pruner.num_heads[found[0][0]]
        parts = 3 if len(found) == 1 else 1
        width = layer.out_features // parts
        for key in ("num_attention_heads", "num_heads", "n_heads"):
            if isinstance(getattr(module, key, None), int):
                setattr(module, key, number)
        for key in () if whole_heads else ("attention_head_size", "head_dim", "attention_head_dim"):
            if isinstance(getattr(module, key, None), int):
                setattr(module, key, width // number)
        for key in ("all_head_size", "inner_dim"):
            if isinstance(getattr(module, key, None), int):
                setattr(module, key, width)
        if len(found) == 3 and isinstance(getattr(module, "num_key_value_groups", None), int):
            module.num_key_value_groups = number // pruner.num_heads[found[1][0]]
