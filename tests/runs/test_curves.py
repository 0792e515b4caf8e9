"""Losses and accuracies over the epochs, read from metrics.csv."""

from __future__ import annotations

from pathlib import Path

from lsa_lightning.runs.curves import curves_of


def written(folder: Path, text: str) -> Path:
    (folder / "metrics.csv").write_text(text)
    return folder / "metrics.csv"


def test_the_last_value_of_each_epoch_counts_and_accuracies_are_percents(tmp_path: Path) -> None:
    rows = "epoch,step,train/loss,val/acc_clean,val/acc_pgd\n0,1,0.9,,\n0,2,0.6,0.5,0.25\n1,4,0.4,0.75,\n"
    losses, accuracies = curves_of(written(tmp_path, rows))
    assert losses == {"training loss": {0: 0.6, 1: 0.4}}
    assert accuracies == {"clean": {0: 50.0, 1: 75.0}, "pgd": {0: 25.0}}


def test_accuracies_that_an_epoch_repeats_are_left_out(tmp_path: Path) -> None:
    rows = "epoch,val/acc_pgd,val/measured_epoch,val/loss\n0,0.5,0.0,1\n1,0.5,0.0,1\n2,0.75,2.0,1\n3,0.75,2.0,1\n"
    _, accuracies = curves_of(written(tmp_path, rows))
    assert accuracies == {"pgd": {0: 50.0, 2: 75.0}}


def test_adversarial_training_is_split_into_its_terms(tmp_path: Path) -> None:
    rows = "epoch,step,train/loss,train/loss_base,train/loss_lr\n0,1,0.9,0.8,0.1\n"
    losses, accuracies = curves_of(written(tmp_path, rows))
    assert losses == {"loss on attacked batches": {0: 0.8}, "layer-wise term added to it": {0: 0.1}}
    assert accuracies == {}


def test_the_term_on_inputs_without_labels_is_a_curve_of_its_own(tmp_path: Path) -> None:
    rows = "epoch,step,train/loss_base,train/loss_lr_unlabelled\n0,1,0.8,0.2\n"
    losses, _ = curves_of(written(tmp_path, rows))
    assert losses == {
        "loss on attacked batches": {0: 0.8},
        "layer-wise term on inputs without labels, added too": {0: 0.2},
    }


def test_no_file_and_an_empty_one_have_no_curves(tmp_path: Path) -> None:
    assert curves_of(tmp_path / "metrics.csv") == ({}, {})
    assert curves_of(written(tmp_path, "")) == ({}, {})
