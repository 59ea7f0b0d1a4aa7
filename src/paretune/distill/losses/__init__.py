"""Distillation losses: pure functions (student, teacher, **arguments) -> scalar, named as recipes name them."""

from paretune.distill.losses._soft_labels import soft_labels

__all__ = ["soft_labels"]
