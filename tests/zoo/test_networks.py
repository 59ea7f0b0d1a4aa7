import pytest
import torch
from safetensors.torch import save_file

from paretune.errors import DataError, InputError
from paretune.zoo import cifar10, digits_net, lenet5, lenet_300_100, load_resnet_cifar, normalise, resnet_cifar
from paretune.zoo._resnet_cifar import MEAN, STD


def parameters(model):
    return sum(tensor.numel() for tensor in model.parameters())


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (digits_net, (1, 8, 8), 963_018),
        (lenet5, (1, 28, 28), 431_080),
        (lenet_300_100, (1, 28, 28), 266_610),
        (lambda: resnet_cifar(20), (3, 32, 32), 269_722),
        (lambda: resnet_cifar(32), (3, 32, 32), 464_154),
        (lambda: resnet_cifar(44), (3, 32, 32), 658_586),
        (lambda: resnet_cifar(56), (3, 32, 32), 853_018),
    ],
)
def test_published_parameter_counts_and_output_shapes(model, shape, count):
    net = model().eval()
    assert parameters(net) == count
    assert net(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_block_with_dead_convolutions_is_its_shortcut():
    block = resnet_cifar(20).layer2[0].eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the branch adds nothing: what is left is option A
    x = torch.rand(1, 16, 4, 4)
    out = block(x)
    assert out.shape == (1, 32, 2, 2)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_depth_must_be_6n_plus_2():
    with pytest.raises(InputError, match=r"depth=21 must be 6n \+ 2, such as 20"):
        resnet_cifar(21)


def test_weights_are_read_back_with_depth_and_classes(tmp_path):
    net = resnet_cifar(32, classes=7).eval()
    weights = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(weights, tmp_path / "net.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_resnet_cifar(tmp_path / "net.safetensors")(x), net(x))


def test_damaged_and_foreign_weights_are_named(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(DataError, match="no such file"):
        load_resnet_cifar(path)
    weights = resnet_cifar(20).state_dict()
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"net\.safetensors is damaged"):
        load_resnet_cifar(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="its tensors are weight"):
        load_resnet_cifar(path)
    save_file({k: v for k, v in weights.items() if k != "layer3.1.bn2.bias"}, path)
    with pytest.raises(DataError, match=r"tensors missing: layer3\.1\.bn2\.bias; foreign: none"):
        load_resnet_cifar(path)
    save_file(weights | {"conv1.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(DataError, match=r"size mismatch for conv1\.weight"):
        load_resnet_cifar(path)


def test_real_resnet20_classifies_real_images(shared):
    net = load_resnet_cifar(shared / "data" / "cifar10_resnets" / "resnet20.safetensors")
    images, labels = (part[:500] for part in cifar10(shared / "data" / "cifar10", ["test"])["test"])
    with torch.no_grad():
        predicted = net(torch.from_numpy(normalise(images, MEAN, STD))).argmax(dim=1).numpy()
    assert (predicted == labels).mean() > 0.89  # 91.73 % of all 10,000
