"""The oracle of pruning, as a fixture. It reads the manifest alone and knows nothing of the package's analysis.

In a copy of the uncut model the slices of weights that read removed channels are set to zero, and norms take their
statistics over what stays. The channels themselves flow on as they did: whoever reads one of them after all, or
reads another position than before, makes outputs or gradients differ from those of the pruned model.
"""

import copy
from fnmatch import fnmatch

import pytest
import torch
from torch import nn

from paretune import prune
from paretune.cuts import Cuts
from paretune.data import call, map_tensors, tensors_of

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def randomise(model, seed=0):
    """Give every parameter and statistic a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                fan = tensor.shape[1:].numel() if tensor.dim() > 1 else 4
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(values / max(1.0, fan**0.5))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
            elif tensor.dim() == 1 and "norm" in name and name.endswith("weight"):
                tensor.add_(1.0)
    return model


def inputs_like(example, batch, dtype, seed=0):
    """Return random inputs of the shapes of an example with another batch; whole numbers within its own range."""
    generator = torch.Generator().manual_seed(10 * seed + batch)

    def fresh(tensor):
        shape = (batch, *tensor.shape[1:])
        if tensor.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        if tensor.dtype == torch.bool:
            return tensor[:1].expand(shape).contiguous()
        return torch.randint(int(tensor.max()) + 1, shape, generator=generator)

    return map_tensors(fresh, example)


def outputs(model, example):
    model.eval()
    with torch.no_grad():
        return tensors_of(call(model, example))


def gradients(model, example):
    """Return the gradients of a fixed random combination of the outputs, by name of the parameter."""
    model.eval().zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(t.shape, generator=generator) for t in outputs(model, example)]
    found = tensors_of(call(model, example))
    sum((t * w.to(t.dtype)).sum() for t, w in zip(found, weights, strict=True)).backward()
    grads = {name: p.grad for name, p in by_name(model).items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return grads


def by_name(model):
    """Return every parameter by its name in the uncut model; tied ones by each of theirs."""
    return {n.replace(".module.", "."): p for n, p in model.named_parameters(remove_duplicate=False)}


def gap(a, b):
    if torch.equal(a, b):
        return 0.0
    assert bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))


class OnKept(nn.Module):
    """A norm or softmax over some axis that sees what stays alone; what was removed flows as it did."""

    def __init__(self, module, keep, axis):
        super().__init__()
        self.module, self.keep, self.axis = module, keep, axis
        self.weight, self.bias = getattr(module, "weight", None), getattr(module, "bias", None)

    def forward(self, x):
        narrow = copy.copy(self.module)
        narrow._parameters = {
            name: p if p is None or p.dim() == 0 else p.index_select(self._own(p), self.keep)
            for name, p in self.module._parameters.items()
        }
        if hasattr(narrow, "normalized_shape"):
            narrow.normalized_shape = (len(self.keep),)
        if hasattr(narrow, "num_channels"):
            narrow.num_channels = len(self.keep)
        return self.module(x).index_copy(self.axis, self.keep, narrow(x.index_select(self.axis, self.keep)))

    def _own(self, parameter):
        """Return the axis of a parameter along the channels: its only one that is not 1."""
        return max(range(parameter.dim()), key=lambda axis: parameter.shape[axis])


def reading_axis(model, name):
    """Return the axis along which a weight of a known layer reads channels, -1 for all else."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, nn.modules.conv._ConvNd) and leaf == "weight":
        return 0 if module.transposed else 1
    reads = (isinstance(module, nn.Linear) and leaf == "weight") or (
        isinstance(module, nn.RNNBase) and leaf.startswith("weight_")
    )
    return 1 if reads else -1


def masked(model, cuts, reads, over):
    """Return a copy of a model in which what the manifest removes is masked where it is read."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for path, axis in over.items():
        axis, tensor = axis if isinstance(axis, tuple) else (axis, f"{path}.*")
        cut = next((c for c in cuts.cuts if fnmatch(c.tensor, tensor) and c.axis == 0), None)
        if cut is not None:
            parent, _, child = path.rpartition(".")
            setattr(modules[parent], child, OnKept(modules[path], torch.tensor(cut.keep), axis))
    tensors = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for cut in cuts.cuts:
            path = cut.tensor.rpartition(".")[0]
            if cut.tensor not in tensors or path in over:
                continue
            known = [axes for pattern, axes in reads.items() if fnmatch(cut.tensor, pattern)]
            axes = known[0] if known else (reading_axis(model, cut.tensor),)
            if cut.axis in (axes if isinstance(axes, tuple) else (axes,)):
                zero(tensors[cut.tensor], cut)
    return model


def zero(tensor, cut):
    """Set to zero in place what one cut removes."""
    per_block = len(cut.keep) // cut.blocks
    for block, part in enumerate(tensor.chunk(cut.blocks)):
        keep = cut.keep[block * per_block : (block + 1) * per_block]
        gone = torch.tensor(sorted(set(range(tensor.shape[cut.axis])) - set(keep)), dtype=torch.long)
        part.index_fill_(cut.axis, gone, 0)


def ties(model):
    """Return for every parameter's name the first of those that it is tied under."""
    first = {}
    return {name: first.setdefault(id(p), name) for name, p in by_name(model).items()}


def what_stays(tensor, cut):
    parts = zip(tensor.chunk(cut.blocks), torch.tensor(cut.keep).chunk(cut.blocks), strict=True)
    return torch.cat([part.index_select(cut.axis, places) for part, places in parts])


def behaviour(model, example, dtype):
    """Return the outputs at batch 1 and 2, and the gradients by name of the parameter."""
    model = copy.deepcopy(model).to(dtype)
    batches = [inputs_like(example, batch, dtype) for batch in (1, 2)]
    return [t for batch in batches for t in outputs(model, batch)], gradients(model, batches[-1])


def compare(mask, pruned, cuts, example, dtype, rounded=False):
    """Assert that outputs at batch 1 and 2, and gradients, are those of the masked model.

    rounded: in float32, allow also what rounding does to the masked model itself: a norm over one channel that is
    left divides what cancels.
    """
    (expected, due), (found, grads) = behaviour(mask, example, dtype), behaviour(pruned, example, dtype)
    exact = behaviour(mask, example, torch.float64) if rounded and dtype == torch.float32 else (expected, due)
    own = by_name(mask)
    for a, b, true in zip(expected, found, exact[0], strict=True):
        assert a.shape == b.shape, f"{tuple(a.shape)} became {tuple(b.shape)}"
        allowed = max(TOLERANCE[dtype], 4 * gap(true, a.double()) if rounded else 0)
        assert gap(a, b) < allowed, f"outputs differ by {gap(a, b):.1e}"
    assert grads and set(grads) <= set(due)
    largest = max(float(grad.abs().max()) for grad in grads.values())
    error = max(float((true - due[name]).abs().max()) for name, true in exact[1].items()) if rounded else 0
    for name, grad in grads.items():
        kept = due[name]
        for cut in cuts.cuts:
            kept = what_stays(kept, cut) if own.get(cut.tensor) is own[name] else kept
        assert kept.shape == grad.shape
        off = float((kept - grad).abs().max())
        assert off <= max(TOLERANCE[dtype] * largest, 4 * error), f"the gradient of {name} differs by {off:.1e}"


@pytest.fixture
def oracle():
    """Prune a model in float64 and check everything that must hold of it; return what `cut` returned."""

    def check(
        model, example, *, reads=None, over=None, form="auto", structures=(), matters=True, rounded=False, **how
    ):
        """Check one model.

        reads: axis (or axes) that read, by glob over parameters, where the layer's kind does not tell: a matrix
        that is multiplied, the rows of queries. over: the axis that a norm or softmax works along, by module;
        (axis, weight whose rows make the channels) where it has no parameters of its own. matters: False where
        nobody reads what is removed. rounded: see `compare`. how: what `channels` takes.
        """
        model = randomise(model.double())
        example = map_tensors(lambda t: t.double() if t.is_floating_point() else t, example)
        before = copy.deepcopy(model.state_dict())
        plain = outputs(model, inputs_like(example, 2, torch.float64))
        pruned = prune.channels(model, example, form=form, structures=structures, **(how or {"ratio": 0.5}))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        mask = masked(model, pruned.cuts, reads or {}, over or {})
        if matters and pruned.cuts.cuts:  # else the comparison would say nothing
            after = outputs(pruned.model, inputs_like(example, 2, torch.float64))
            assert max(gap(a, b) for a, b in zip(plain, after, strict=True)) > 1e-6
        for dtype in TOLERANCE:
            compare(mask, pruned.model, pruned.cuts, example, dtype, rounded)
        assert pruned.after["params"] == sum(parameter.numel() for parameter in pruned.model.parameters())
        again = prune.replay(copy.deepcopy(model), Cuts.from_json(pruned.cuts.to_json()))
        assert all(torch.equal(t, again.state_dict()[n]) for n, t in pruned.model.state_dict().items())
        inputs = inputs_like(example, 2, torch.float64, seed=1)
        assert all(
            torch.equal(a, b) for a, b in zip(outputs(again, inputs), outputs(pruned.model, inputs), strict=True)
        )
        trains(mask, again, inputs)
        return pruned

    return check


def trains(mask, model, inputs):
    """Take a step of SGD; every parameter that a gradient reaches in the masked model gets one and moves."""
    torch.manual_seed(0)
    reached = set()
    for either in (mask, model):
        either.train()
        found = [t for t in tensors_of(call(either, inputs)) if t.requires_grad]
        sum(t.square().mean() for t in found).backward()
        reached ^= {ties(mask)[name] for name, p in by_name(either).items() if p.grad is not None}
    assert not reached, f"gradients reach other parameters after the cut: {sorted(reached)}"
    before = [p.detach().clone() for p in model.parameters()]
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert any(moved) and all(bool(torch.isfinite(p).all()) for p in model.parameters())
