"""Cut a pretrained CIFAR ResNet with torch-pruning, in its own environment, and write the weights that are left.

    python benchmarks/_peer_cut.py --speed 2 --importance group_l2 --shortcut conv out.safetensors

As its own reproduction does it (VainF/Torch-Pruning, reproduce/main.py): global pruning in up to 400 small steps
until the network has 1/speed of its multiply-accumulates, the classifier ignored. It cannot follow the padded
shortcuts of these networks (the cut model does not run), so it is helped by hand in one of two ways: `conv` gives
it the same function with each padded shortcut as a 1x1 convolution of ones and zeros (counted among the cut
network's multiply-accumulates, trained afterwards), `inner` has it keep the channels of the residual sums.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from _cifar10 import make_task

IMPORTANCES = ("group_l2", "l1", "lamp", "fpgm", "taylor")
SHORTCUTS = ("conv", "inner")
STEPS, BATCHES = 400, 10
EXAMPLE = (1, 3, 32, 32)


class Projected(nn.Module):
    """A residual block whose padded shortcut is a 1x1 convolution: the same function, and every width is free."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        inputs, outputs = block.conv1.in_channels, block.conv2.out_channels
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=block.stride, bias=False)
        with torch.no_grad():
            self.shortcut.weight.zero_()
            for channel in range(inputs):
                self.shortcut.weight[channel + block.padding, channel] = 1

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + self.shortcut(x))


def projected(model: nn.Module) -> nn.Module:
    """Replace every padded block, in place, and return the model."""
    for stage in (model.layer1, model.layer2, model.layer3):
        for index, block in enumerate(stage):
            if block.padding:
                stage[index] = Projected(block)
    return model


def shaped(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a fresh network the tensors of a cut one, and its layers the widths that go with them."""
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(getattr(module, leaf), nn.Parameter):
            setattr(module, leaf, nn.Parameter(tensor.clone()))
        else:
            setattr(module, leaf, tensor.clone())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(module.weight)
    return model


def macs(model: nn.Module) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one image."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        places = output[0, 0].numel() if output.dim() == 4 else 1
        total += module.weight.numel() * places

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(EXAMPLE))
    for handle in handles:
        handle.remove()
    return total


def cut(depth: int, speed: float, importance: str, shortcut: str, seed: int, quick: bool) -> nn.Module:
    """Return the network after torch-pruning cut it to 1/speed of the given one's multiply-accumulates."""
    import torch_pruning as tp

    torch.manual_seed(seed)
    task = make_task(quick=quick, depth=depth)
    model = task.build()
    goal = macs(model) / speed
    ignored = [model.linear]
    if shortcut == "conv":
        projected(model)
    else:
        ignored += [model.conv1, *(m for name, m in model.named_modules() if name.endswith("conv2"))]
    rules = {
        "group_l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "lamp": lambda: tp.importance.LAMPImportance(p=2),
        "fpgm": lambda: tp.importance.FPGMImportance(p=2),
        "taylor": lambda: tp.importance.TaylorImportance(),
    }
    entry = tp.pruner.GroupNormPruner if importance == "group_l2" else tp.pruner.MagnitudePruner
    pruner = entry(
        model.eval(),
        torch.zeros(EXAMPLE),
        importance=rules[importance](),
        global_pruning=True,
        iterative_steps=STEPS,
        pruning_ratio=1.0,
        max_pruning_ratio=1.0,
        ignored_layers=ignored,
    )
    if importance == "taylor":
        criterion = task.criterion()
        for inputs, target in islice(task.data("train").batches(shuffle=(seed, 0)), BATCHES):
            criterion(model(inputs), target).backward()
    while macs(model) > goal and pruner.current_step < STEPS:
        pruner.step()
    return model


def main() -> None:
    """Cut, and write the state dict."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--importance", choices=IMPORTANCES, default="group_l2")
    parser.add_argument("--shortcut", choices=SHORTCUTS, default="conv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    model = cut(options.depth, options.speed, options.importance, options.shortcut, options.seed, options.quick)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, str(options.out))


if __name__ == "__main__":
    main()
