"""The oracle of the coverage benchmark finds wrong cuts, its floor is counted by hand, bad ends are rows."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from paretune.cuts import Attribute, Cut, Cuts, replay


def small(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Sigmoid(), nn.Linear(4, 5))
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5)
    return model.eval()


def cuts_of(readers: tuple[int, ...], norm: Attribute) -> Cuts:
    keep = (0, 2, 3)
    return Cuts(
        shapes={"0.weight": (4, 3), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "3.weight": (5, 4)},
        cuts=(
            Cut("0.weight", 0, keep),
            Cut("0.bias", 0, keep),
            Cut("1.weight", 0, keep),
            Cut("1.bias", 0, keep),
            Cut("3.weight", 1, readers),
        ),
        attributes=(norm,),
    )


def gaps(norm: nn.Module, attribute: Attribute, readers: tuple[int, ...]) -> dict[str, float]:
    from _coverage_oracle import gaps_of

    model = small(norm)
    cuts = cuts_of(readers, attribute)
    pruned = SimpleNamespace(model=replay(copy.deepcopy(model), cuts), cuts=cuts)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, generator=generator)
    return gaps_of(model, pruned, lambda batch: x[:batch], torch.float64)


NORMS = [
    (nn.LayerNorm(4), Attribute("1", "normalized_shape", (4,), (3,))),
    (nn.GroupNorm(1, 4), Attribute("1", "num_channels", 4, 3)),
]


@pytest.mark.parametrize(("norm", "attribute"), NORMS, ids=["layer norm", "group norm"])
def test_a_right_cut_agrees_with_the_masked_model_forward_and_backward(norm, attribute):
    found = gaps(norm, attribute, (0, 2, 3))
    assert found.pop("changed") > 1e-3
    assert max(found.values()) < 1e-12


@pytest.mark.parametrize(("norm", "attribute"), NORMS, ids=["layer norm", "group norm"])
def test_a_reader_that_keeps_another_channel_is_found(norm, attribute):
    found = gaps(norm, attribute, (0, 1, 3))
    assert found["batch_1"] > 1e-3
    assert found["gradients"] > 1e-3


def test_a_grouped_convolution_is_masked_block_by_block():
    from _coverage_oracle import _zero

    weight = torch.ones(4, 3, 1, 1)  # two groups of two outputs, three inputs each
    _zero(weight, Cut("weight", 1, (0, 1, 1, 2), blocks=2))
    assert weight[:2, :, 0, 0].tolist() == [[1, 1, 0]] * 2
    assert weight[2:, :, 0, 0].tolist() == [[0, 1, 1]] * 2


def test_the_floor_is_every_axis_halved_but_what_is_given():
    from _coverage_checks import floor

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.token = nn.Parameter(torch.zeros(1, 7, 8))
            self.head = nn.Linear(8, 10)

    # conv 4 x 3 x 3 x 3 and its bias 4; token 1 x 7 x 4; head 10 x 4 and its bias 10
    assert floor(Model(), {10, 3, 1}) == 108 + 4 + 28 + 40 + 10


def test_constant_tensors_are_drawn_anew_and_batch_norm_measures_a_batch():
    from _coverage_models import liven

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6))
    nn.init.zeros_(model[1].weight)
    liven(model, lambda batch: torch.randn(batch, 3, generator=torch.Generator().manual_seed(0)))
    assert model[1].weight.std() > 0 and model[1].bias.std() > 0
    assert not torch.equal(model[1].running_mean, torch.zeros(6))
    assert model[1].momentum == 0.1


def test_a_process_that_dies_or_never_ends_is_a_row(tmp_path, monkeypatch):
    import sys

    import surgery_coverage as benchmark

    script = tmp_path / "child.py"
    script.write_text(
        "import sys, time\nprint('stage: graph', file=sys.stderr, flush=True)\n"
        "time.sleep(60) if sys.argv[1] == 'slow' else sys.exit(3)\n"
    )
    monkeypatch.setattr(benchmark, "CHILD", script)
    dead = benchmark.child(sys.executable, ["dead"], 30)
    assert dead["status"] == "the process ended with 3: graph"
    assert benchmark.child(sys.executable, ["slow"], 3)["status"] == "not ended after 3 s: graph"
    assert not benchmark.whole(dead)
    assert "ended with 3" in benchmark.verdict(dead)


def test_a_cut_that_is_delivered_wrong_is_named():
    import surgery_coverage as benchmark

    row = {"name": "torchvision/a", **dict.fromkeys(benchmark.CHECKS, True), "code": "x", "form": "module"}
    row |= {"left": 0.3, "over_floor": 1.0, "export_s": 1.0, "analysis_s": 1.5, "errors": {}}
    wrong = row | {"name": "torchvision/b", "oracle": False, "analysis_s": 2.5}
    peer = {"status": "ok", "left": 0.4, "trains": True}
    found = benchmark.result([(row, peer), (wrong, {"status": "exception: cut"})])
    assert found.value == 0.5
    assert not found.met
    assert found.detail["delivered_wrong"] == found.detail["analysis_too_slow"] == ["torchvision/b"]
    assert found.detail["torchvision"]["oracle"] == found.detail["torchvision"]["peer_ok"] == 1
    assert benchmark.result([(row, peer)]).met
    row |= {"exported": False, "uncut_exported": True}
    assert not benchmark.result([(row, peer)]).met
    row["uncut_exported"] = False  # the exporter's own limit, told in the table
    assert benchmark.result([(row, peer)]).met
    assert benchmark.result([(row, peer)]).detail["torchvision"]["not_exportable_uncut"] == 1


def test_a_padded_shortcut_as_a_convolution_is_the_same_function():
    from _peer_cut import macs, projected, shaped
    from paretune.zoo import resnet_cifar

    torch.manual_seed(0)
    model = resnet_cifar(8).eval()
    x = torch.randn(2, 3, 32, 32)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"][:5]
    tensors |= {
        f"layer1.0.bn1.{k}": tensors[f"layer1.0.bn1.{k}"][:5]
        for k in ("weight", "bias", "running_mean", "running_var")
    }
    tensors["layer1.0.conv2.weight"] = tensors["layer1.0.conv2.weight"][:, :5]
    with torch.no_grad():
        expected = model(x)
        narrow = shaped(resnet_cifar(8), tensors)
        assert torch.equal(projected(model)(x), expected)
        assert narrow.eval()(x).shape == (2, 10)
    assert narrow.layer1[0].conv1.out_channels == 5
    # 11 of 16 inner channels gone from two 3x3 convolutions on 32x32 images
    assert macs(resnet_cifar(8)) - macs(narrow) == 2 * 11 * 16 * 9 * 1024
