import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from paretune._skip import Skip
from paretune.cuts import Attribute, Cut, Cuts, Removed, replay
from paretune.errors import SurgeryError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


CUTS = Cuts(
    shapes={"0.weight": (4, 3), "0.bias": (4,), "1.running_mean": (4,), "2.weight": (2, 4)},
    cuts=(
        Cut("0.weight", 0, (0, 2)),
        Cut("0.bias", 0, (0, 2)),
        Cut("1.running_mean", 0, (0, 2)),
        Cut("2.weight", 1, (0, 2)),
    ),
    attributes=(Attribute("0", "out_features", 4, 2), Attribute("2", "in_features", 4, 2)),
)


def test_replay_keeps_the_listed_slices_of_parameters_and_buffers():
    before, after = model(), replay(model(), CUTS)
    assert torch.equal(after[0].weight, before[0].weight[[0, 2]]) and torch.equal(
        after[0].bias, before[0].bias[[0, 2]]
    )
    assert torch.equal(after[2].weight, before[2].weight[:, [0, 2]])
    assert after[1].running_mean.shape == (2,) and "running_mean" in dict(after[1].named_buffers())
    assert isinstance(after[0].weight, nn.Parameter) and after[0].out_features == after[2].in_features == 2


def test_a_manifest_survives_json():
    cuts = Cuts(
        shapes={"a": (2, 3)},
        cuts=(Cut("a", 1, (0, 2)), Cut("b", 1, (0, 1), blocks=2)),
        attributes=(Attribute("n", "normalized_shape", (4,), (2,)),),
        folded=("c",),
        removed=(Removed("d", ("x", None), "[]"),),
    )
    back = Cuts.from_json(json.loads(json.dumps(cuts.to_json())))
    assert back.cuts == cuts.cuts and back.shapes == cuts.shapes
    assert back.folded == ("c",) and back.removed == cuts.removed
    norm = nn.ModuleDict({"n": nn.LayerNorm(4)})
    assert replay(norm, Cuts(shapes={}, attributes=back.attributes))["n"].normalized_shape == (2,)


def test_a_manifest_without_blocks_reads_as_one_block():
    content = CUTS.to_json()
    for cut in content["cuts"]:
        del cut["blocks"]
    assert Cuts.from_json(content) == CUTS


def test_blocks_keep_their_own_indices():
    conv = nn.Conv2d(4, 4, 1, groups=2)  # weight (4, 2, 1, 1): rows 0-1 read inputs 0-1, rows 2-3 inputs 2-3
    cuts = Cuts(shapes={"weight": (4, 2, 1, 1)}, cuts=(Cut("weight", 1, (1, 0), blocks=2),))
    after = replay(copy.deepcopy(conv), cuts).weight
    assert torch.equal(after[:2, 0], conv.weight[:2, 1]) and torch.equal(after[2:, 0], conv.weight[2:, 0])


def test_a_tied_tensor_stays_one_object():
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    cuts = Cuts(shapes={"a.weight": (3, 3)}, cuts=(Cut("a.weight", 0, (0, 1)), Cut("a.weight", 1, (2,))))
    after = replay(tied, cuts)
    assert after["b"].weight is after["a"].weight and after["a"].weight.shape == (2, 1)


def test_frozen_parameters_stay_frozen():
    frozen = model().requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in replay(frozen, CUTS).parameters())


def test_parametrizations_are_folded_and_modules_removed():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    weight = net[0].weight.detach().clone()
    cuts = Cuts(
        shapes={"0.weight": (4, 3)},
        cuts=(Cut("0.weight", 0, (1, 3)),),
        folded=("0",),
        removed=(Removed("1"),),
    )
    after = replay(net, cuts)
    torch.testing.assert_close(after[0].weight.detach(), weight[[1, 3]])
    assert isinstance(after[1], Skip)


def test_another_architecture_is_refused_before_anything_changes():
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    with pytest.raises(SurgeryError, match=r"'0.weight' is \(5, 3\), the manifest expects \(4, 3\)"):
        replay(other, CUTS)
    assert other[0].weight.shape == (5, 3)
    with pytest.raises(SurgeryError, match=r"no tensor '1\.running_mean'"):
        replay(nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 2)), CUTS)
    with pytest.raises(SurgeryError, match="applied already"):
        replay(replay(model(), CUTS), CUTS)


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("cuts", {"keep": []}, "is damaged: .* at least one"),
        ("cuts", {"keep": ["a", "b"]}, "must be whole numbers"),
        ("cuts", {"axis": "0"}, "must be whole numbers"),
        ("cuts", {"blocks": 0}, "is damaged"),
        ("cuts", {"blocks": 3}, "equally many to keep for each block"),
        ("cuts", {"keep": [1, 1]}, "keeps a position twice"),
        ("attributes", {"attribute": "forward"}, "sets '0.forward' to 2, and there it finds method"),
        ("attributes", {"attribute": "__class__"}, "there it finds type"),
        ("attributes", {"module": "9"}, "has no module '9'"),
        ("attributes", {"new": "2"}, "or damaged"),
    ],
)
def test_a_damaged_manifest_is_refused_before_anything_changes(where, change, message):
    content, net = CUTS.to_json(), model()
    content[where][0] |= change
    with pytest.raises(SurgeryError, match=message):
        replay(net, Cuts.from_json(content))
    assert net[0].weight.shape == (4, 3)


def test_a_graph_without_nodes_is_no_manifest():
    with pytest.raises(SurgeryError, match="form 'graph' with 0 nodes"):
        Cuts.from_json(CUTS.to_json() | {"form": "graph"})
