"""The contract of a distillation loss: what every function of the family `losses` must hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def check_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Raise an AssertionError that says which rule a loss of (student, teacher) logits breaks.

    The rules: it returns a finite scalar; it is least where the two agree; a gradient reaches the student and none
    the teacher; a step against the gradient lowers it; it changes nothing it was given; samples have no order.
    """
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(8, 5, generator=generator, requires_grad=True)
    teacher = torch.randn(8, 5, generator=generator, requires_grad=True)
    before = student.detach().clone(), teacher.detach().clone()
    value = loss(student, teacher)
    assert value.shape == (), f"a loss is a scalar, got shape {tuple(value.shape)}"
    assert bool(value.isfinite()), f"a loss is finite, got {value.item()}"
    value.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None, "the gradient must reach the student"
    assert bool(student.grad.abs().sum() > 0), "the gradient must reach the student"
    assert teacher.grad is None or not bool(teacher.grad.any()), "no gradient may reach the teacher"
    assert torch.equal(student, before[0]), "a loss must not change the student's output"
    assert torch.equal(teacher, before[1]), "a loss must not change the teacher's output"
    with torch.no_grad():
        nearer = loss(student - 1e-3 * student.grad / student.grad.norm(), teacher)
        assert nearer < value, "a small step against the gradient must lower the loss"
        assert loss(teacher, teacher) <= value, "the loss must be least where student and teacher agree"
        order = torch.randperm(8, generator=generator)
        torch.testing.assert_close(loss(student[order], teacher[order]), value, msg="samples have no order")
