import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.distill.losses import soft_labels
from paretune.errors import TaskError


def _logits(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def _from_the_paper(student, teacher, temperature):
    """Write T^2 * mean over samples of sum p_t log(p_t / p_s) in NumPy, one sample at a time."""
    total = 0.0
    for z_s, z_t in zip(student.numpy(), teacher.numpy(), strict=True):
        p_s = np.exp(z_s / temperature) / np.exp(z_s / temperature).sum()
        p_t = np.exp(z_t / temperature) / np.exp(z_t / temperature).sum()
        total += (p_t * np.log(p_t / p_s)).sum()
    return temperature**2 * total / len(student)


def test_value_and_gradient_by_hand():
    # T = 2: p_s = (1/2, 1/2), p_t = (1/4, 3/4); 4 * (ln(1/2) / 4 + 3 ln(3/2) / 4), gradient T * (p_s - p_t)
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 2 * math.log(3)]], dtype=torch.float64, requires_grad=True)
    loss = soft_labels(student, teacher, temperature=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.523248, abs=1e-6)
    assert student.grad[0].tolist() == pytest.approx([0.5, -0.5])
    assert teacher.grad is None


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 7), st.floats(0.5, 20))
@settings(max_examples=50, deadline=None)
def test_equals_the_formula_of_the_paper(seed, samples, classes, temperature):
    student, teacher = _logits(seed, samples, classes), _logits(seed + 1, samples, classes)
    loss = soft_labels(student, teacher, temperature=temperature).item()
    assert loss == pytest.approx(_from_the_paper(student, teacher, temperature), rel=1e-9, abs=1e-12)


@given(st.integers(0, 10_000), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_zero_at_the_teacher_else_positive_and_blind_to_a_shift_and_to_the_order_of_samples(seed, shift):
    student, teacher = _logits(seed, 5, 4), _logits(seed + 1, 5, 4)
    loss = soft_labels(student, teacher)
    assert soft_labels(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss > 0
    torch.testing.assert_close(soft_labels(student + shift, teacher - shift), loss)
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(soft_labels(student[order], teacher[order]), loss)


def test_gradient_is_that_of_finite_differences():
    teacher = _logits(1, 3, 4)
    torch.autograd.gradcheck(lambda z: soft_labels(z, teacher), _logits(0, 3, 4).requires_grad_())


def test_gradient_equals_that_of_the_papers_cross_entropy():
    student, teacher = _logits(0, 6, 5).requires_grad_(), _logits(1, 6, 5)
    (ours,) = torch.autograd.grad(soft_labels(student, teacher, temperature=3.0), student)
    papers = 9 * torch.nn.functional.cross_entropy(student / 3, (teacher / 3).softmax(1))
    torch.testing.assert_close(ours, torch.autograd.grad(papers, student)[0])


def test_at_high_temperature_it_matches_centred_logits():
    # Hinton et al., section 2.1: for T far above the logits, the gradient is that of squared centred differences
    student, teacher = _logits(0, 4, 6), _logits(1, 4, 6)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = centred.square().sum(1).mean() / (2 * 6)
    torch.testing.assert_close(soft_labels(student, teacher, temperature=1e4), limit, rtol=1e-3, atol=0)


def test_positions_count_as_samples():
    student, teacher = _logits(0, 2, 5, 3, 3), _logits(1, 2, 5, 3, 3)
    flat = [z.movedim(1, -1).reshape(-1, 5) for z in (student, teacher)]
    torch.testing.assert_close(soft_labels(student, teacher), soft_labels(*flat))


def test_half_precision_is_computed_in_float32():
    student, teacher = _logits(0, 8, 10).bfloat16(), _logits(1, 8, 10).bfloat16()
    loss = soft_labels(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, soft_labels(student.float(), teacher.float()))


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = soft_labels(student, torch.tensor([[-1e4, 1e4]]), temperature=1.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), r"student's logits are \(2, 3\) and the teacher's \(2, 4\)"),
        (torch.zeros(2, 1), torch.zeros(2, 1), r"shape \(2, 1\) have no axis of at least 2 classes"),
        (torch.zeros(2), torch.zeros(2), r"shape \(2,\) have no axis of at least 2 classes"),
    ],
)
def test_shapes_that_cannot_be_compared(student, teacher, message):
    with pytest.raises(TaskError, match=message):
        soft_labels(student, teacher)


def test_temperature_must_be_above_zero():
    with pytest.raises(TaskError, match=r"temperature=0 must be above 0"):
        soft_labels(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0)
