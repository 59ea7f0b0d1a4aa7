"""Control flow that depends on values: fixed where it is the same for all inputs, refused where it is not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from paretune import prune
from paretune.errors import SurgeryError
from paretune.prune._capture.fixed_flow import depends, reading, reads_of


class Reads(nn.Module):
    """Two linear layers around what a test says happens to the activation."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(4, 6), nn.Linear(6, 2), between

    def forward(self, x):
        return self.second(self.between(x, self.first(x).tanh()))


def refuses_nan(x, h):
    if torch.isnan(h).any():
        raise ValueError("nan")
    return h


def asserts(x, h):
    assert (x.abs() < 1e9).all()
    return h


def counts(x, h):
    return h * (int((x.abs() > -1).sum()) // x.numel())


def compares(x, h):
    return h if torch.equal(x, x.clone()) and x.isfinite().all().item() else h * 2


def contains(x, h):
    return h * 2 if 1e9 in x else h


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.parametrize("between", [refuses_nan, asserts, counts, compares, contains])
def test_flow_that_is_the_same_for_all_inputs_is_fixed_and_said(between, form, oracle):
    model, inputs = Reads(between), torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    pruned = oracle(model, inputs, ratio=0.5, form=form)
    assert pruned.widths == {"first": 3}
    (note,) = [note for note in pruned.notes if "control flow depends on values" in note]
    assert "test_fixed_flow.py:" in note
    assert ("rewritten" in " ".join(pruned.notes)) == (form == "graph")


@pytest.mark.parametrize(
    "between",
    [
        lambda x, h: h * 2 if x.sum() > 0 else h,
        lambda x, h: h[int(x.sum(1).argmin()) :][:1],
        lambda x, h: h * float(x.max()),
        lambda x, h: h * x.detach().numpy().mean(),
    ],
)
def test_flow_that_depends_on_the_inputs_is_refused_with_the_line(between):
    with pytest.raises(SurgeryError, match=r"what test_fixed_flow.py:\d+: lambda x, h: .* reads is another for"):
        prune.channels(Reads(between), torch.randn(2, 4), ratio=0.5)


def test_a_mask_of_ones_says_nothing_about_other_masks():
    class Masked(Reads):
        def forward(self, x, mask):
            h = self.first(x)
            return self.second(h if mask.all() else h * mask)

    with pytest.raises(SurgeryError, match=r"if mask.all\(\).* reads is another for other inputs"):
        prune.channels(Masked(None), (torch.randn(2, 4), torch.ones(2, 6)), ratio=0.5)


def test_reads_are_in_order_and_given_again_at_their_place():
    def twice(x):
        return [float(x.sum()), int(x.max())]

    model = nn.Module()
    model.forward = twice
    reads = reads_of(model, torch.tensor([1.0, 2.0]))
    assert [read.value for read in reads] == [3.0, 2] and reads[0].line == reads[1].line
    assert reads[0].file == __file__
    with reading(reads):
        assert twice(torch.tensor([10.0, 20.0])) == [3.0, 2]
        assert float(torch.tensor(7.0)) == 7.0  # another place
    assert twice(torch.tensor([10.0, 20.0])) == [30.0, 20]


def test_where_other_inputs_are_all_refused_nothing_is_known():
    class Once(nn.Module):
        def forward(self, x):
            if not bool((x == 3.0).all()):
                raise ValueError("threes only")
            return x

    reads = reads_of(Once(), torch.full((2, 2), 3.0))
    other = depends(Once(), torch.tensor([[3.0]]), reads[:1])
    assert other is reads[0]


def test_what_a_package_beside_torch_reads_has_its_own_line():
    file = str(Path(torch.__file__).parent) + "vision/ops.py"  # torchvision
    code: dict = {}
    exec(compile("def counts(x, h):\n    return h * int((x == x).all())\n", file, "exec"), code)
    (read,) = reads_of(Reads(code["counts"]), torch.ones(2, 4))
    assert (read.file, read.line) == (file, 2)
