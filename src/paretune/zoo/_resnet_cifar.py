"""The residual networks for CIFAR-10: ResNet-20, -32, -44, -56.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, arXiv:1512.03385, with shortcut
option A: where a stage halves the image and doubles the channels, the shortcut takes every second pixel and pads
channels of zeros, half of them before and half after the old ones, and so has no parameters.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from paretune.errors import DataError, InputError
from paretune.zoo._files import damaged, missing

EXPECTED = "the weights of a ResNet for CIFAR-10 in safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the published networks were trained with: the statistics of ImageNet."""


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        """Build a block from `inputs` to `planes` channels; a stride of 2 halves the image."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.stride = stride
        self.padding = (planes - inputs) // 2
        """Channels of zeros on each side of the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.padding:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        made: Tensor = self.relu2(out + x)
        return made


class ResNetCifar(nn.Module):
    """Three stages of residual blocks with 16, 32 and 64 channels."""

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        """Build an untrained network; depth is 6n + 2 with n blocks a stage."""
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise InputError(f"resnet_cifar: depth={depth} must be 6n + 2, such as 20, 32, 44 or 56")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (n, 3, 32, 32) to (n, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        pooled: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return pooled


def resnet_cifar(depth: int = 20, classes: int = 10) -> ResNetCifar:
    """Return an untrained ResNet for 32x32 images; depth 20, 32, 44 or 56 (any 6n + 2).

    Input float32 (n, 3, 32, 32), output (n, classes). Depth 20 has 269,722 parameters, depth 56 853,018.
    """
    return ResNetCifar(depth, classes)


def load_resnet_cifar(path: str | Path) -> ResNetCifar:
    """Return a trained network in eval mode from a safetensors file; depth and classes are read off its tensors.

    Names as in `ResNetCifar`; `num_batches_tracked` may be absent. A missing, damaged or foreign file is a
    DataError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        weights = load(path.read_bytes())
    except OSError as error:
        raise missing(path, EXPECTED, error) from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise damaged(path, EXPECTED, str(error)) from error
    blocks = len({name.split(".")[1] for name in weights if name.startswith("layer1.")})
    if not blocks or "linear.weight" not in weights:
        raise damaged(path, EXPECTED, f"its tensors are {', '.join(sorted(weights)[:3]) or 'none'} ...")
    model = ResNetCifar(6 * blocks + 2, classes=len(weights["linear.weight"]))
    try:
        absent, foreign = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise damaged(path, EXPECTED, str(error).splitlines()[-1].strip()) from error
    absent = [name for name in absent if not name.endswith("num_batches_tracked")]
    if absent or foreign:
        raise DataError(
            f"{path}: tensors missing: {', '.join(absent[:3]) or 'none'}; "
            f"foreign: {', '.join(foreign[:3]) or 'none'}. Expected {EXPECTED}, "
            "with the names of paretune.zoo.resnet_cifar"
        )
    return model.eval()


def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, planes, stride)
    return nn.Sequential(first, *(Block(planes, planes, 1) for _ in range(blocks - 1)))
