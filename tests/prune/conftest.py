"""The oracle of pruning, independent of the package's own masking, as a fixture."""

import copy

import pytest
import torch
from torch import nn

from paretune import prune
from paretune.data import call, tensors_of


def randomise(model, seed=0):
    """Give every parameter and statistic a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.5)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model


def outputs(model, example):
    model.eval()
    with torch.no_grad():
        return tensors_of(call(model, example))


def masked(model, cuts, reads):
    """Zero what conv and linear layers read of removed channels, from the manifest alone.

    reads: the axis that reads, for parameters that are no weight of a layer.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for cut in cuts.cuts:
            owner, _, name = cut.tensor.rpartition(".")
            module = model.get_submodule(owner)
            tensor = getattr(module, name)
            transposed = isinstance(module, nn.modules.conv._ConvNd) and module.transposed
            if tensor.dim() < 2 or cut.axis != reads.get(cut.tensor, 0 if transposed else 1):
                continue
            size = tensor.shape[cut.axis]
            per_block = len(cut.keep) // cut.blocks
            for block in range(cut.blocks):
                keep = cut.keep[block * per_block : (block + 1) * per_block]
                gone = torch.tensor(sorted(set(range(size)) - set(keep)), dtype=torch.long)
                tensor.chunk(cut.blocks)[block].index_fill_(cut.axis, gone, 0)
    return model


def gap(a, b):
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))


@pytest.fixture
def oracle():
    """Prune a model in float64 and check everything that must hold of it; return what `channels` returned."""

    def check(model, example, reads=None, **how):
        model = randomise(model.double())
        before = copy.deepcopy(model.state_dict())
        pruned = prune.channels(model, example, **(how or {"ratio": 0.5}))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        mask = masked(model, pruned.cuts, reads or {})
        for batch in (1, 2):
            generator = torch.Generator().manual_seed(batch)
            inputs = torch.randn(batch, *example.shape[1:], generator=generator, dtype=torch.float64)
            for a, b in zip(outputs(mask, inputs), outputs(pruned.model, inputs), strict=True):
                assert a.shape == b.shape and gap(a, b) < 1e-10
        counted = sum(parameter.numel() for parameter in pruned.model.parameters())
        assert pruned.after["params"] == counted
        trains(pruned.model, example)
        again = prune.replay(copy.deepcopy(model), type(pruned.cuts).from_json(pruned.cuts.to_json()))
        assert all(torch.equal(t, again.state_dict()[n]) for n, t in prune_state(model, pruned.cuts).items())
        again.load_state_dict(pruned.model.state_dict())
        assert torch.equal(outputs(again, example)[0], outputs(pruned.model, example)[0])
        return pruned

    return check


def prune_state(model, cuts):
    return prune.replay(copy.deepcopy(model), cuts).state_dict()


def trains(model, example):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tensors_of(call(model, example.repeat(2, *[1] * (example.dim() - 1))))[0].square().mean().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    optimizer.step()
    model.eval()
