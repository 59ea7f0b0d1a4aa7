"""The registry: names, nearest names, and what is told of each method."""

import pytest

from paretune.errors import InputError
from paretune.methods import FAMILIES, _source, describe, find, registry


def test_every_family_has_its_methods_by_name():
    assert "l1" in registry("scores")
    assert "soft_labels" in registry("losses")
    assert {"minmax", "percentile", "mse"} <= set(registry("calibrations"))
    assert {"train", "prune.channels", "distill", "quantize.static"} <= set(registry("steps"))


def test_an_unknown_name_names_the_nearest_and_how_to_list_them():
    with pytest.raises(InputError, match=r"no method 'soft_label' in losses\. Did you mean 'soft_labels'\?"):
        find("losses", "soft_label")
    with pytest.raises(InputError, match=r"no family 'score' of methods\. Did you mean 'scores'\?"):
        registry("score")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_says_what_it_does(family: str):
    for method in describe(family):
        assert method.summary.endswith("."), method
        assert method.name


@pytest.mark.parametrize("family", ["scores", "losses", "calibrations"])
def test_every_method_of_the_literature_names_its_paper(family: str):
    assert all("arXiv:" in method.source for method in describe(family))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("What it is.\n\nLi et al., \"Pruning\nFilters\", 2017, section 3.1, arXiv:1608.08710.\nNeeds no data.",
         'Li et al., "Pruning Filters", 2017, section 3.1, arXiv:1608.08710'),
        (
            "X.\n\nSource: A 2017, arXiv:1712.05877; B 2021, arXiv:2106.08295. More.",
            "A 2017, arXiv:1712.05877; B 2021, arXiv:2106.08295",
        ),
        ("It helps (Beyer et al., arXiv:2106.05237, section 3).", ""),
        ("Nothing is cited here.", ""),
    ],
)  # fmt: skip
def test_the_source_is_whole_or_nothing(text: str, source: str):
    assert _source(text) == source
