"""Reports of layers: what they hold, their files and their figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.helpers.modules import ModularConvNet, loader

from lsa_lightning import LayerSustainabilityAnalysis, SustainabilityReport
from lsa_lightning.attacks import FGSM, PGD, InputSpace
from lsa_lightning.layers.report import AnalysedEpoch, attack_in_words, in_words, plot_history, plot_reports

LAYERS = ["relu1", "relu2", "act"]


def report() -> SustainabilityReport:
    torch.manual_seed(0)
    return LayerSustainabilityAnalysis(ModularConvNet(0.5)).run(loader(), FGSM(0.1))


def test_saves_and_loads(tmp_path: Path) -> None:
    original = report()
    original.save(tmp_path / "profile.json")
    loaded = SustainabilityReport.load(tmp_path / "profile.json")
    assert loaded.to_dict() == original.to_dict()
    assert loaded.most_vulnerable(0.0) == original.most_vulnerable(0.0) != []


@pytest.mark.parametrize("text", ["", "{}", '{"mean": 1}', "[]"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"expected .*other\.json to hold a report"):
        SustainabilityReport.load(tmp_path / "other.json")


def test_prints_a_row_per_layer() -> None:
    lines = str(report()).splitlines()
    assert [line.split()[:3] for line in lines[2:5]] == [
        ["0", "conv1", "relu1"],
        ["1", "conv2", "relu2"],
        ["2", "fc1", "act"],
    ]
    assert lines[-1].startswith("mu ")


def test_dataframe_and_figure() -> None:
    found = report()
    frame = found.to_dataframe()
    assert list(frame.columns) == ["layer", "learnable", "measure", "mean", "std", "z_score"]
    assert list(frame["layer"]) == LAYERS
    assert [label.get_text() for label in found.plot().axes[0].get_xticklabels()] == LAYERS


def test_equal_layers_have_z_scores_of_0() -> None:
    same = SustainabilityReport(
        ["a", "b"], ["a", "b"], *(torch.tensor(v) for v in ([0.5, 0.5], [0.0, 0.0], 0.5, 0.0)), 1
    )
    assert same.z_scores.tolist() == [0.0, 0.0]
    assert same.most_vulnerable(0.0) == []


def made(*means: float, layers: tuple[str, ...] = ("a", "b"), **options: Any) -> SustainabilityReport:
    """A report with these means, under PGD."""
    mean = torch.tensor(means, dtype=torch.float64)
    values = (mean, mean / 10, mean.mean(), mean.std(correction=0))
    return SustainabilityReport([*layers], [*layers], *values, 10, **{"attack": "PGD(steps=2)", **options})


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("RelativeError()", "relative_error"),
        ("CenteredRelativeError()", "centered_relative_error"),
        ("CosineDistance()", "cosine_distance"),
        ("MyOwn()", "MyOwn()"),
    ],
)
def test_a_file_of_before_the_new_names_loads(tmp_path: Path, written: str, name: str) -> None:
    values = made(0.1, 0.2).to_dict()
    values["perturber"] = values.pop("attack")
    (tmp_path / "profile.json").write_text(json.dumps({**values, "measure": written}))
    assert SustainabilityReport.load(tmp_path / "profile.json").to_dict() == made(0.1, 0.2, measure=name).to_dict()


def test_the_mean_by_layer_in_the_order_of_execution() -> None:
    profile = made(0.4, 0.2, layers=("z", "a")).profile
    assert list(profile.items()) == [("z", 0.4), ("a", 0.2)]


def test_a_report_says_measure_attack_and_samples_in_its_first_line() -> None:
    first = str(made(0.1, 0.2, measure="cosine_distance")).splitlines()[0]
    assert first == "Layer sustainability under PGD(steps=2), 10 samples, cosine distance"


def epoch(number: int = 3, **options: Any) -> AnalysedEpoch:
    return AnalysedEpoch(number, made(0.1, 0.3, **options), ["b"])


def test_an_analysed_epoch_comes_back_from_its_dict() -> None:
    values = json.loads(json.dumps(epoch(measure="cosine_distance").to_dict()))
    again = AnalysedEpoch.from_dict(values)
    assert again.to_dict() == epoch(measure="cosine_distance").to_dict() == values
    assert (again.epoch, again.mvl, again.report.measure) == (3, ["b"], "cosine_distance")
    assert torch.equal(again.report.mean, epoch().report.mean)


def test_an_analysed_epoch_gives_its_entries_by_name() -> None:
    entry = epoch()
    assert (entry["epoch"], entry["mvl"], entry["layers"], entry["mean"]) == (3, ["b"], ["a", "b"], [0.1, 0.3])
    assert (entry["mu"], entry["sigma"]) == (float(entry.report.mu), float(entry.report.sigma))
    with pytest.raises(KeyError):
        entry["nothing"]


@pytest.mark.parametrize("key", ["epoch", "mvl"])
def test_an_epoch_without_number_or_list_is_refused(key: str) -> None:
    values = epoch().to_dict()
    del values[key]
    with pytest.raises(ValueError, match=f"expected an analysed epoch with epoch and mvl, found no {key}"):
        AnalysedEpoch.from_dict(values)


def test_an_epoch_without_an_entry_of_the_report_is_refused() -> None:
    values = epoch().to_dict()
    del values["sigma"]
    with pytest.raises(ValueError, match="expected the entries of a SustainabilityReport, got: KeyError"):
        AnalysedEpoch.from_dict(values)


@pytest.mark.parametrize(
    "other", [made(0.1, 0.2, layers=("a", "c")), made(0.1, layers=("a",)), made(0.1, 0.2, measure="cosine_distance")]
)
def test_reports_of_different_layers_or_measures_are_not_drawn_together(other: SustainabilityReport) -> None:
    with pytest.raises(ValueError, match="expected reports of the same layers and measure, at least one"):
        plot_reports({"pgd": made(0.1, 0.2), "fgsm": other})


def test_no_report_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="expected reports of the same layers and measure, at least one"):
        plot_reports({})


def test_bars_of_one_standard_deviation_and_the_threshold() -> None:
    names = ["pgd", "fgsm"]
    figure = plot_reports({name: made(0.1, 0.2) for name in names}, ["b"], ("threshold 0.15 under pgd", 0.15))
    (axes,) = figure.axes
    for container in axes.containers:
        heights = [float(top[1] - bottom[1]) for bottom, top in container[2][0].get_segments()]
        assert heights == pytest.approx([0.02, 0.04])
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {*names, "MVL", "threshold 0.15 under pgd"}


def test_the_axis_names_the_radius_that_all_attacks_have() -> None:
    reports = {name: made(0.1, 0.2, attack=f"{name}(norm='L2', bounds=None, eps=0.5)") for name in ("PGD", "FGSM")}
    assert plot_reports(reports).axes[0].get_xlabel().endswith("\nattacks and noises: eps 0.5 (L2)")
    reports["other"] = made(0.1, 0.2, attack="PGD(norm='L2', eps=0.1)")
    assert "eps" not in plot_reports(reports).axes[0].get_xlabel()


def test_the_figures_name_the_measure_in_words() -> None:
    (axes,) = plot_reports({"pgd": made(0.1, 0.2, measure="cosine_distance")}).axes
    assert axes.get_ylabel() == "cosine distance,\nmean ± std over 10 samples\n(bars are cut at 0)"
    scale = plot_history([epoch(measure="centered_relative_error")]).axes[1]
    assert scale.get_xlabel().startswith("centered relative error, ")
    assert in_words("relative_error") == "relative error"


def test_a_noise_is_named_with_its_amount() -> None:
    reports = {
        "pgd": made(0.1, 0.2, attack="PGD(eps=0.3)"),
        "salt": made(0.1, 0.2, attack="SaltNoise(eps=0.3, amount=0.1)"),
    }
    legend = {text.get_text() for text in plot_reports(reports).legends[0].get_texts()}
    assert legend == {"pgd", "salt, amount 0.1"}


def test_a_report_plots_itself_under_the_name_of_its_attack() -> None:
    for attack, label in (("PGD(steps=2)", "PGD"), ("", "perturbed")):
        assert [text.get_text() for text in made(0.1, attack=attack, layers=("a",)).plot().legends[0].get_texts()] == [
            label
        ]


def test_the_history_is_drawn_epoch_by_epoch() -> None:
    with patch("lsa_lightning.plotting.plot_mvl_history") as draw:
        plot_history([epoch(1), epoch(4)])
    draw.assert_called_once_with(
        [1, 4], [pytest.approx({"a": -1.0, "b": 1.0})] * 2, [["b"]] * 2, measure="relative error", attack="PGD"
    )


def test_no_epoch_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="expected one profile and one MVL per epoch"):
        plot_history([])


def test_an_attack_in_another_input_space_goes_by_its_own_name() -> None:
    attack = InputSpace([0.5], [0.25])(PGD(eps=0.1))
    assert attack_in_words(repr(attack)) == attack_in_words(repr(PGD(eps=0.1))) == ("PGD", "eps 0.1 (Linf)")
