"""The contracts of the families: a method of yours passes the checks that ours pass.

`check_score(my_score)` in a test of your own package; each check raises an AssertionError that names the rule.
"""

from paretune.testing._loss import check_loss
from paretune.testing._sampler import check_sampler
from paretune.testing._score import check_score

__all__ = ["check_loss", "check_sampler", "check_score"]
