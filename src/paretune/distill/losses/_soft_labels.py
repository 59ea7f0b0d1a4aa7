"""Soft labels: the student imitates the teacher's softened class probabilities.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531, section 2.
With p = softmax(z / T):

    loss = T^2 * mean over samples of sum over classes of p_teacher * log(p_teacher / p_student)

The factor T^2 keeps the gradient's size about the same when T changes (section 2.1); the mean is over samples,
not over samples and classes, which would make the loss smaller by the number of classes (a common slip). The
paper writes the cross-entropy with soft targets; the KL divergence here differs from it by a constant of the
student, has the same gradient, and is 0 where the two agree.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from paretune.errors import TaskError


def soft_labels(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 4.0) -> torch.Tensor:
    """Return T^2 times the KL divergence from the student's to the teacher's softened probabilities, a scalar.

    student, teacher: logits of equal shape (samples, classes, *positions) with at least 2 classes; positions
    (a segmentation map) count as samples. Half precision is computed in float32. No gradient reaches the teacher.
    A single logit per sample (binary classification, regression) is a TaskError: its softmax is always 1.
    temperature: T, above 0; higher tells more about the wrong classes.

    >>> soft_labels(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 2.1972]]), temperature=2.0)
    tensor(0.5232)
    """
    if student.shape != teacher.shape:
        raise TaskError(
            f"soft_labels: the student's logits are {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; both must be of one shape, with the same classes in the same order"
        )
    if student.ndim < 2 or student.shape[1] < 2:
        raise TaskError(
            f"soft_labels: logits of shape {tuple(student.shape)} have no axis of at least 2 classes, and the "
            "softmax of a single logit is always 1; give a binary classifier two outputs, or do not distil"
        )
    if temperature <= 0:
        raise TaskError(f"soft_labels: temperature={temperature:g} must be above 0; 4 is usual")
    log_student = functional.log_softmax(_wide(student) / temperature, dim=1)
    log_teacher = functional.log_softmax(_wide(teacher).detach() / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return temperature**2 * divergence / (student.numel() // student.shape[1])


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
