"""Figures, in one style, drawn without pyplot's global state."""

from lsa_lightning.plotting.classes import plot_class_accuracy, plot_confusion
from lsa_lightning.plotting.inputs import plot_adversarial_images, plot_decision_boundary
from lsa_lightning.plotting.layers import plot_mvl_history, plot_profiles
from lsa_lightning.plotting.scores import (
    plot_accuracy,
    plot_difference_curves,
    plot_differences,
    plot_mean_accuracy,
    plot_rg_scores,
)
from lsa_lightning.plotting.training import plot_training

__all__ = [
    "plot_accuracy",
    "plot_adversarial_images",
    "plot_class_accuracy",
    "plot_confusion",
    "plot_decision_boundary",
    "plot_difference_curves",
    "plot_differences",
    "plot_mean_accuracy",
    "plot_mvl_history",
    "plot_profiles",
    "plot_rg_scores",
    "plot_training",
]
