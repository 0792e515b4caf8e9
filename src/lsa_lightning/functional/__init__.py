"""Pure functions: comparison of representations, Algorithm 1, the penalty of AT-LR, scores, classification."""

from lsa_lightning.functional.classification import (
    check_classes,
    check_finite,
    check_label_range,
    classification_loss,
    count_classes,
    is_binary,
    kl_divergence,
    log_probabilities,
    predicted_labels,
)
from lsa_lightning.functional.layers import amplification, layerwise_penalty, select_mvl
from lsa_lightning.functional.representations import (
    NORM_FLOOR,
    as_rows,
    centered_relative_error,
    centered_relative_error_over_batch,
    cosine_distance,
    relative_error,
    relative_spread,
    relative_squared_error,
)
from lsa_lightning.functional.scores import robustness_generalization_score, t_interval, wilson_interval

__all__ = [
    "NORM_FLOOR",
    "amplification",
    "as_rows",
    "centered_relative_error",
    "centered_relative_error_over_batch",
    "check_classes",
    "check_finite",
    "check_label_range",
    "classification_loss",
    "cosine_distance",
    "count_classes",
    "is_binary",
    "kl_divergence",
    "layerwise_penalty",
    "log_probabilities",
    "predicted_labels",
    "relative_error",
    "relative_spread",
    "relative_squared_error",
    "robustness_generalization_score",
    "select_mvl",
    "t_interval",
    "wilson_interval",
]
