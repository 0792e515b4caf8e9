"""What the figure of the epochs shows."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes

from lsa_lightning.plotting import plot_training

LOSSES = {"on attacked batches": {0: 0.6, 1: 0.5, 2: 0.4}}
ACCURACIES = {"clean": {0: 80.0, 1: 85.0, 2: 90.0}, "pgd": {1: 50.0, 2: 45.0}}


def curves_of(axes: Axes) -> dict[str, dict[int, float]]:
    return {str(line.get_label()): dict(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_losses_stand_above_accuracies_over_the_same_epochs() -> None:
    losses, accuracies = plot_training(LOSSES, ACCURACIES, attacked="eps 0.3 (Linf)").axes
    assert curves_of(losses) == LOSSES
    assert curves_of(accuracies) == ACCURACIES
    assert (losses.get_ylabel(), accuracies.get_xlabel()) == ("loss", "epoch, the first is 0")
    assert accuracies.get_ylabel() == "validation accuracy (%)\nattacks: eps 0.3 (Linf)"
    assert losses.get_xlim() == accuracies.get_xlim()


def test_the_epoch_that_was_kept_is_marked_in_both() -> None:
    for axes in plot_training(LOSSES, ACCURACIES, kept=1).axes:
        (line,) = [line for line in axes.lines if line.get_label() == "kept: epoch 1"]
        assert list(line.get_xdata()) == [1, 1]
        legend = axes.get_legend()
        assert legend is not None
        assert "kept: epoch 1" in [text.get_text() for text in legend.get_texts()]


def test_weights_from_within_an_epoch_are_marked_as_such() -> None:
    (axes, _) = plot_training(LOSSES, ACCURACIES, kept=1, step=56, best_by="val/acc_pgd").axes
    assert "kept: step 56,\nwithin epoch 1\n(best val/acc_pgd)" in [str(line.get_label()) for line in axes.lines]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_no_line_shows_are_counted(value: float) -> None:
    (axes,) = plot_training({"loss": {0: 0.6, 1: value, 2: value}}, {}).axes
    assert [line.get_label() for line in axes.lines] == ["loss\n(infinite or NaN in 2 of 3 epochs,\nfirst in epoch 1)"]


def test_the_mark_says_what_the_epoch_is_the_best_by() -> None:
    (axes, _) = plot_training(LOSSES, ACCURACIES, kept=1, best_by="val/acc_pgd").axes
    assert "kept: epoch 1\n(best val/acc_pgd)" in [str(line.get_label()) for line in axes.lines]


@pytest.mark.parametrize("curves", [(LOSSES, {}), ({}, ACCURACIES)])
def test_what_was_not_logged_has_no_axes(curves: tuple[Any, Any]) -> None:
    (axes,) = plot_training(*curves).axes
    assert curves_of(axes) == (curves[0] or curves[1])


def test_epochs_are_whole_numbers() -> None:
    *_, axes = plot_training(LOSSES, ACCURACIES).axes
    assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("curves", [({}, {}), ({"loss": {}}, {})])
def test_no_curve_is_refused(curves: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="expected at least one curve, each with at least one epoch, got"):
        plot_training(*curves)
