import torch

from paretune.prune.scores import thinet


def contributions(seed, channels=6, outputs=3, within=2):
    """Return (weight, second moment, what each channel adds to the outputs: (channels, samples, outputs))."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, channels * within, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels, outputs, within, generator=generator, dtype=torch.float64)
    added = torch.einsum("ncw,cow->cno", x.reshape(50, channels, within), weight)
    return weight, x.T @ x / 50, added


def test_takes_away_the_least_first_and_adds_up():
    weight = torch.tensor([[1.0], [2.0], [2.0]])  # (channels, out=1) on independent inputs: 1, 4 and 4 of 9
    torch.testing.assert_close(thinet(weight, torch.eye(3)), torch.tensor([1 / 9, 5 / 9, 1.0]))


def test_is_algorithm_1_of_the_paper_on_the_contributions_themselves():
    for seed in range(5):
        weight, moment, added = contributions(seed)
        gone, rest, errors = [], list(range(6)), []
        while rest:
            losses = [added[[*gone, c]].sum(0).square().sum().item() / 50 for c in rest]
            errors.append(min(losses))
            gone.append(rest.pop(losses.index(min(losses))))
        scores = thinet(weight, moment)
        assert scores.argsort().tolist() == gone
        whole = added.sum(0).square().sum().item() / 50
        expected = torch.tensor(errors).cummax(0).values / whole
        torch.testing.assert_close(scores[gone], expected, rtol=1e-4, atol=1e-6)


def test_channels_that_cancel_go_together():
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    moment = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # the first two inputs are one
    assert thinet(weight, moment).argsort().tolist()[0] == 2  # 0.25 is less than 1
    moment[2, 2] = 100
    assert set(thinet(weight, moment).argsort().tolist()[:2]) == {0, 1}
