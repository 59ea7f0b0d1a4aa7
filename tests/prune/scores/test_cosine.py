import torch

from paretune.prune.scores import cosine


def test_is_one_less_the_largest_cosine_to_a_stronger_channel():
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.5], [-0.5, 0.0]])
    # a copy of the second; the strongest; at right angles to it; against two and at right angles to the third
    torch.testing.assert_close(cosine(weight), torch.tensor([0.0, 2.0, 1.0, 1.0]))


def test_of_two_copies_only_one_is_redundant():
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    doubled = cosine(torch.cat([weight, weight]))
    torch.testing.assert_close(doubled[:5], cosine(weight))
    torch.testing.assert_close(doubled[5:], torch.zeros(5), atol=1e-6, rtol=0)


def test_the_lengths_of_channels_matter_only_by_their_order():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(cosine(weight), cosine(7 * weight))


def test_a_channel_of_zeros_is_the_weakest():
    assert cosine(torch.tensor([[0.0, 0.0], [1.0, 0.0]])).tolist() == [1.0, 2.0]
