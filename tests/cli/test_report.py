"""What the pages of lsa-report hold."""

from __future__ import annotations

import base64
import math
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf
from tests.helpers.html import Page
from tests.helpers.hydra_run import read_json, train_tiny
from tests.helpers.run_copies import copy_run, edit_summary

from lsa_lightning.cli.report import main, write_report
from lsa_lightning.masking.flags import CLEARLY
from lsa_lightning.runs.folder import write_json
from lsa_lightning.runs.status import State, Status

PNG = b"\x89PNG...IEND\xaeB`\x82"
"""What is taken for a whole file."""

HOSTILE = "<script>alert('1')</script> $x_{$ & \"quoted\""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its figures."""
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder, "trainer.max_epochs=3", "evaluation.exact=null", "evaluation.ceiling=null", figures=True)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copy_run(trained, tmp_path / "run")


@pytest.fixture
def page(trained: Path, tmp_path: Path) -> Page:
    return page_of(trained, output=tmp_path / "page.html")


def page_of(*paths: Path, output: Path | None = None) -> Page:
    return Page(write_report(paths, output)[0].read_text())


def wilson(accuracy: float, samples: int) -> str:
    """95 % Wilson interval in percent, by its formula."""
    p, z = accuracy / 100, 1.959964
    middle, half = p + z**2 / (2 * samples), z * math.sqrt(p * (1 - p) / samples + z**2 / (4 * samples**2))
    low, high = ((middle + sign * half) / (1 + z**2 / samples) for sign in (-1, 1))
    return f"{100 * low:.2f} to {100 * high:.2f}"


def test_accuracies_scores_and_intervals_are_those_of_the_evaluation(trained: Path, page: Page) -> None:
    evaluation = read_json(trained / "evaluation.json")
    assert page.tables["accuracy"] == [
        ["attack", "clean", "eps 0.1", "eps 0.3 training", "R&G of 300"],
        *(
            [attack, *(f"{a:.2f} {wilson(a, 40)}" for a in row), f"{evaluation['rg_score'][attack]:.2f}"]
            for attack, row in evaluation["accuracy"].items()
        ),
    ]
    assert len(evaluation["accuracy"]) == 2


CEILING = {
    "eps": [0.0, 0.1, 0.3],
    "accuracy": [100.0, 95.0, 92.0],
    "rg_eps": [0.0, 0.1, 0.3],
    "rg_score": 285.0,
    "part": 2000,
}


def test_what_comes_from_no_attack_and_what_is_flagged_stands_in_the_table(run: Path) -> None:
    accuracy = {"pgd": [90.0, 70.0, 50.0], "exact": [90.0, 65.0, 45.0]}
    flags = {"black_box_stronger": {"raised": True, "seen": "Square fools more"}}
    edit_summary(run, accuracy=accuracy, at_most={"exact": [90.0, 65.5, 46.25]}, ceiling=CEILING, masking=flags)
    page = page_of(run)
    assert [row[0] for row in page.tables["accuracy"]] == ["attack", "pgd", "exact", "ceiling"]
    assert page.tables["accuracy"][3] == ["ceiling", "100.00", "95.00", "92.00", "285.00"]
    assert "of these samples at most 65.5, 46.25 % are, at these eps" in page.text
    text = " ".join(page.text.split())
    assert "R&G is the sum of the accuracies of a row, but for the ceiling." in text
    assert (
        "from 2000 of them at a time. Its R&G is not the sum of its row but at most that, since one classifier" in text
    )
    assert "45.00 % of the test samples stay right (exact, 95 % interval" in text
    assert "47.00 points below the ceiling of 92.00 %." in text
    assert "Masking flag: black box stronger, see below; the rows under attacks may be too high." in page.text


def test_layers_are_those_of_the_profiles(trained: Path, page: Page) -> None:
    header, *rows = page.tables["layers"]
    mvl = read_json(trained / "summary.json")["mvl"]
    assert header == ["layer", "MVL", "pgd", "fgsm", "gaussian", "speckle", "salt", "pepper"]
    profiles = [read_json(trained / f"profile_{name}.json") for name in header[2:]]
    for i, row in enumerate(rows[:3]):
        layer = profiles[0]["layers"][i]
        assert row == [
            layer,
            "yes" if layer in mvl else "",
            *(f"{p['mean'][i]:.3f} ± {p['std'][i]:.3f}" for p in profiles),
        ]
    assert [row[0] for row in rows[3:]] == ["mu", "sigma", "threshold"]
    assert rows[3][2:] == [f"{p['mu']:.3f}" for p in profiles]
    assert rows[5][2:] == [f"{profiles[0]['mu']:.3f}", *[""] * 5]  # eta is 0
    assert mvl


def test_classes_are_those_of_the_file(trained: Path, page: Page) -> None:
    header, *rows = page.tables["classes"]
    counts = read_json(trained / "classes.json")
    assert header == ["class", "samples", "clean", "pgd", "mostly taken for"]
    for i, row in enumerate(rows):
        samples, clean, attacked = sum(counts["clean"][i]), counts["clean"][i][i], counts["adversarial"][i][i]
        assert row[:2] == [str(i), str(samples)]
        shares = [100 * hits / samples for hits in (clean, attacked)]
        assert row[2:4] == [f"{share:.2f} {wilson(share, samples)}" for share in shares]
        assert row[4] == ("-" if attacked == samples else str(1 - i))
    assert len(rows) == 2
    assert "on the first 40 test samples, clean and under pgd, eps 0.3 (Linf)" in " ".join(page.text.split())


def test_the_mvl_history_is_that_of_the_summary(trained: Path, page: Page) -> None:
    summary = read_json(trained / "summary.json")
    history, kept = summary["mvl_history"], summary["checkpoint_epoch"]
    assert kept in range(3)
    assert page.tables["mvl-history"][1:] == [
        [
            f"{e['epoch']} kept" if e["epoch"] == kept else str(e["epoch"]),
            f"{e['mu']:.4f}",
            f"{e['sigma']:.4f}",
            ", ".join(e["mvl"]) or "none",
        ]
        for e in history
    ]
    assert page.tables["mvl-counts"][0][1] == "times in the MVL, of 3"
    assert page.tables["mvl-counts"][1:] == [
        [f"backbone.act{i}", str(sum(f"backbone.act{i}" in e["mvl"] for e in history))] for i in (1, 2, 3)
    ]


def test_the_page_tells_what_was_trained_and_how(trained: Path, page: Page) -> None:
    summary = read_json(trained / "summary.json")
    for text in (*summary["trained"].values(), *summary["versions"].values(), *summary["versions"]):
        assert text in page.text
    assert f"ATLR, seed 0, 3 epochs, trained in {summary['training_seconds']:.1f} s" in page.text
    assert (trained / "config.yaml").read_text() in page.text


def test_every_figure_is_in_the_page_with_its_bytes(trained: Path, page: Page) -> None:
    names = {path.stem for path in (trained / "figures").iterdir()}
    assert names >= {"accuracy", "layer_profile", "decision_boundary"}
    images = [base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")) for _, source in page.images]
    assert sorted(images) == sorted((trained / "figures" / f"{name}.svg").read_bytes() for name in names)
    assert "Accuracy over eps" in [alt for alt, _ in page.images]
    assert all(f"{alt}." in page.text for alt, _ in page.images)


def test_every_figure_of_a_run_names_it(trained: Path) -> None:
    figures = list((trained / "figures").glob("*.svg"))
    assert len(figures) > 5
    assert [file.name for file in figures if "<!-- run: train, seed 0 -->" not in file.read_text()] == []


@pytest.mark.filterwarnings("error:constrained_layout")
def test_the_figures_of_many_methods_with_long_names_have_room(seeds: Path, tmp_path: Path) -> None:
    for job in range(10):
        name = f"a method {job} whose name is longer than a line of the legend, and than two"
        copy_run(seeds / "0", tmp_path / "many" / str(job), name=name)
    assert len(page_of(tmp_path / "many").images) == 3


def test_figures_without_a_caption_appear_with_their_file_name(run: Path) -> None:
    (run / "figures" / "my_plot.png").write_bytes(PNG)
    (run / "figures" / "notes.txt").touch()
    page = page_of(run)
    assert page.images[-1] == ("my_plot", "data:image/png;base64," + base64.b64encode(PNG).decode())
    assert "figures/my_plot.png" in page.text
    assert "notes" not in page.text


@pytest.mark.parametrize(("size", "kind"), [(400_000, "svg+xml"), (400_001, "png")])
def test_a_large_svg_gives_way_to_its_png(run: Path, size: int, kind: str) -> None:
    (run / "figures" / "accuracy.svg").write_bytes(b"<?xml".ljust(size - 6) + b"</svg>")
    sources = dict(page_of(run).images)
    assert sources["Accuracy over eps"].startswith(f"data:image/{kind};")


def test_the_page_fetches_nothing_and_runs_nothing(page: Page) -> None:
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_a_report_is_below_three_megabytes(run: Path) -> None:
    assert write_report([run])[0].stat().st_size < 3_000_000


@pytest.mark.parametrize("entries", [{}, {"masking": {}}])
def test_masking_that_was_not_checked_is_said_so(run: Path, entries: dict[str, Any]) -> None:
    summary = read_json(run / "summary.json")
    summary.pop("masking", None)
    write_json({**summary, **entries}, run / "summary.json")
    page = page_of(run)
    assert "masking" not in page.tables
    assert "Not checked." in page.text


def test_masking_flags_are_shown_with_what_was_seen(run: Path) -> None:
    flags = {
        "pgd_weaker_than_fgsm": {"raised": True, "seen": "PGD 80.0 %, FGSM 60.0 %"},
        "vanishing_gradients": {"raised": False, "seen": "0"},
        "large_eps": {"raised": None, "seen": "no bounds"},
    }
    edit_summary(run, masking=flags)
    assert page_of(run).tables["masking"][1:] == [
        ["pgd weaker than fgsm", "flag raised", "one step fools clearly more than many", "PGD 80.0 %, FGSM 60.0 %"],
        ["vanishing gradients", "no sign", "clearly more than 2 % vanish", "0"],
        ["large eps", "does not apply", "", "no bounds"],
    ]


def test_a_count_that_points_the_other_way_is_explained(page: Page) -> None:
    text = " ".join(page.text.split())
    assert CLEARLY in text
    assert "Counts are of all samples that were checked" in text
    assert "Masking checks: no flag raised; 6 of 8 checks apply." in text


def test_the_page_says_which_data_chose_the_mvl_of_training_and_that_of_the_table(trained: Path, page: Page) -> None:
    text = " ".join(page.text.split())
    assert "mean ± standard deviation over 40 test samples" in text
    assert "weights under pgd on these test samples; training chose its own by validation data" in text
    assert "on 32 validation samples under PGD, eps 0.3 (Linf). With the same weights, the test samples" in text


def test_many_epochs_are_said_and_folded_and_few_are_shown(run: Path) -> None:
    html = write_report([run]).file.read_text()
    assert "<details open>\n<summary>3 epochs: show all</summary>" in html
    history = read_json(run / "summary.json")["mvl_history"]
    edit_summary(run, mvl_history=[{**history[0], "epoch": number} for number in range(50)])
    html = write_report([run]).file.read_text()
    assert "<details>\n<summary>50 epochs: show all</summary>" in html
    assert len(Page(html).tables["mvl-history"]) == 51


def test_the_epoch_that_was_measured_is_named(run: Path) -> None:
    edit_summary(run, checkpoint="somewhere/best.ckpt", checkpoint_epoch=7)
    assert "the weights after epoch 7 (best val/acc_pgd, best.ckpt)" in page_of(run).text


def test_weights_from_within_an_epoch_are_named_by_their_step_and_no_analysis_is_theirs(run: Path) -> None:
    edit_summary(run, checkpoint="somewhere/best.ckpt", checkpoint_epoch=1)
    assert page_of(run).text.count("1 kept") == 1
    edit_summary(run, checkpoint_step=24)
    assert "the weights after step 24, within epoch 1 (best val/acc_pgd, best.ckpt)" in page_of(run).text
    assert "1 kept" not in page_of(run).text


def test_a_run_without_the_regularizer_has_no_history(run: Path) -> None:
    edit_summary(run, mvl_history=[])
    assert "No layer was chosen in this run" in page_of(run).text


def test_a_run_with_the_least_still_has_a_page(run: Path) -> None:
    values = read_json(run / "summary.json")
    values.pop("masking", None)
    for key in ("measure", "mvl_from", "mvl", "mvl_history", "profiles", "versions", "mu", "sigma", "checkpoint"):
        del values[key]
    write_json(values, run / "summary.json")
    (run / "classes.json").unlink()
    for path in (run / "figures").iterdir():
        path.unlink()
    page = page_of(run)
    assert page.images == []
    assert "layers" not in page.tables
    assert len(page.tables["accuracy"]) == 3


@pytest.fixture
def seeds(trained: Path, tmp_path: Path) -> Path:
    """Two seeds of one method and one of another, as a sweep folder. Under FGSM they are made to differ."""
    for job, (seed, gamma, last) in enumerate([(0, 0.1, 50.0), (1, 0.1, 60.0), (0, 1.0, 55.0)]):
        accuracy = {"fgsm": [90.0, 70.0, last], "pgd": [90.0, 65.0, 45.0]}
        copy_run(
            trained,
            tmp_path / "sweep" / str(job),
            config={"regularizer.gamma": gamma, "callbacks.atlr.regularizer.gamma": gamma},
            seed=seed,
            accuracy=accuracy,
        )
    return tmp_path / "sweep"


LABELS = ["gamma=0.1", "gamma=0.1", "gamma=1.0"]


def test_a_comparison_shows_each_run(seeds: Path) -> None:
    page = page_of(seeds)
    assert "Comparison of 3 runs" in page.text
    assert [row[:2] for row in page.tables["runs"][1:]] == [list(pair) for pair in zip(LABELS, "010", strict=True)]
    assert page.tables["accuracy-1"][1:] == [
        [label, seed, *(f"{a:.2f} {wilson(a, 40)}" for a in (90.0, 70.0, last)), f"{160 + last:.2f}"]
        for label, seed, last in zip(LABELS, "010", (50.0, 60.0, 55.0), strict=True)
    ]


def test_a_comparison_has_mean_and_spread_over_the_seeds(seeds: Path) -> None:
    page = page_of(seeds)
    assert page.tables["seeds-1"][0] == ["method", "seeds", "clean", "eps 0.1", "eps 0.3 training", "R&G"]
    std = f"{statistics.stdev([50, 60]):.2f}"
    half = 12.7062047 * 5  # Student's t of one degree of freedom, times the standard error
    interval, scores = (f"{mean - half:.2f} to {mean + half:.2f}" for mean in (55, 215))
    assert page.tables["seeds-1"][1:] == [
        [
            *("gamma=0.1", "0, 1", "90.00 ± 0.00 90.00 to 90.00", "70.00 ± 0.00 70.00 to 70.00"),
            *(f"55.00 ± {std} {interval}", f"215.00 ± {std} {scores}"),
        ],
        ["gamma=1.0", "0", "90.00", "70.00", "55.00", "215.00"],
    ]


def test_the_table_of_results_has_mean_deviation_and_interval_of_the_main_metrics(seeds: Path) -> None:
    header, *rows = page_of(seeds).tables["results"]
    assert header == ["method", "n", "mean ± standard deviation 95 % interval"]
    assert rows[:3] == [
        ["clean accuracy"],
        ["gamma=0.1", "2", "90.00 ± 0.00 90.00 to 90.00"],
        ["gamma=1.0", "1", "90.00"],
    ]
    assert [row[0] for row in rows[3::3]] == [
        *(f"accuracy under {attack}, eps 0.3" for attack in ("fgsm", "pgd")),
        *(f"R&G under {attack}" for attack in ("fgsm", "pgd")),
    ]


@pytest.fixture
def with_base(seeds: Path) -> Path:
    """The sweep, with two seeds of the same training without the regularizer."""
    for seed, last in ((0, 48.0), (1, 57.0)):
        accuracy = {"fgsm": [90.0, 70.0, last], "pgd": [90.0, 65.0, 45.0]}
        base = copy_run(seeds / "0", seeds / f"base_{seed}", seed=seed, name="at", accuracy=accuracy)
        config = OmegaConf.load(base / "config.yaml")
        node = config.callbacks.pop("atlr")
        config.callbacks.at = {key: node[key] for key in ("attack", "objective", "eps_warmup_epochs")}
        OmegaConf.save(config, base / "config.yaml")
    return seeds


def test_a_comparison_has_the_paired_difference_of_each_regularizer_to_its_base(with_base: Path) -> None:
    page = page_of(with_base)
    header, *rows = page.tables["results"]
    assert header[3:] == ["minus base 95 % interval", "pairs"]
    half = 12.7062047 * 0.5  # the differences are 2 and 3
    start = [row[0] for row in rows].index("accuracy under fgsm, eps 0.3")
    assert [[row[0], *row[3:]] for row in rows[start + 1 : start + 4]] == [
        ["train, gamma=0.1", f"+2.50 {2.5 - half:+.2f} to {2.5 + half:+.2f}", "2"],
        ["train, gamma=1.0", "+7.00", "1"],
        ["at", "", ""],
    ]
    assert "Base of train, gamma=0.1: at, in pairs of seeds 0, 1." in page.text
    assert [alt for alt, _ in page.images][:2] == ["Paired differences in accuracy", "Paired differences in R&G"]
    drawn = base64.b64decode(page.images[0][1].partition(",")[2]).decode()
    assert "<!-- train, gamma=0.1 minus -->" in drawn


def test_paired_differences_in_the_worst_case_are_the_headline(
    with_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for summary in with_base.rglob("summary.json"):
        last = read_json(summary)["accuracy"]["fgsm"][-1]
        edit_summary(summary.parent, accuracy={"fgsm": [90.0, 70.0, last], "pgd": [90.0, 75.0, 65.0]})
    text = " ".join(page_of(with_base).text.split())
    half = 12.7062047 * 0.5
    interval = f"95 % interval {2.5 - half:+.2f} to {2.5 + half:+.2f}"
    lines = (
        f"train, gamma=0.1 minus at, accuracy under fgsm, eps 0.3: +2.50 points ({interval}, n 2), no detectable",
        "train, gamma=1.0 minus at, accuracy under fgsm, eps 0.3: +7.00 points (no interval from one pair, n 1)",
    )
    main([str(with_base)])
    printed = " ".join(capsys.readouterr().out.split())
    for line in lines:
        assert text.index(line) < text.index("In percent, R&G as the sum")
        assert line in printed
    assert "under pgd, eps 0.3: +" not in text


def test_test_sets_of_different_size_do_not_share_a_figure(seeds: Path) -> None:
    edit_summary(seeds / "2", test_samples=60)
    alts = [alt for alt, _ in page_of(seeds).images]
    assert alts == [
        f"{title}, {samples} samples of MoonDataModule"
        for samples in (40, 60)
        for title in ("R&G of each method", "Accuracy over eps under fgsm", "Accuracy over eps under pgd")
    ]


def test_a_comparison_is_printed_and_written_as_tables(with_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(with_base)])
    printed = capsys.readouterr().out
    assert "minus base ± 95 %" in printed
    assert printed.splitlines()[-1].endswith("MB), comparison.csv, paired.csv")
    table = pd.read_csv(with_base / "comparison.csv")
    row = table[(table.group == "train, gamma=0.1") & (table.metric == "accuracy/fgsm/0.3")].iloc[0]
    assert (row.n, row["mean"], row.training) == (2, 55.0, True)
    paired = pd.read_csv(with_base / "paired.csv")
    assert paired[paired.metric == "accuracy/fgsm/0.3"]["mean"].tolist() == [2.5, 7.0]


def test_a_comparison_has_the_room_that_is_closed_and_the_flags_in_every_table(with_base: Path) -> None:
    flags = {"black_box_stronger": {"raised": True, "seen": "Square fools more"}}
    for summary in with_base.rglob("summary.json"):
        edit_summary(summary.parent, ceiling=CEILING, **({"masking": flags} if summary.parent.name == "1" else {}))
    page = page_of(with_base)
    header, *rows = page.tables["results"]
    assert header[-1] == "room closed"
    start = [row[0] for row in rows].index("accuracy under fgsm, eps 0.3")
    flagged = "train, gamma=0.1 masking flags in 1 of 2 runs"
    assert [[row[0], row[-1]] for row in rows[start + 1 : start + 5]] == [
        [flagged, f"{100 * 2.5 / (92 - 52.5):+.0f} ± {100 * 12.7062047 * 0.5 / (92 - 52.5):.0f} %"],
        ["train, gamma=1.0", ""],  # a single pair
        ["at", ""],
        ["ceiling", ""],
    ]
    assert [row[0] for row in page.tables["seeds-1"][1:]] == [flagged, "train, gamma=1.0", "at"]
    assert "train, gamma=0.1 masking: black box stronger" in [row[0] for row in page.tables["accuracy-1"]]
    assert "Masking flags were raised in 1 of 5 runs checked, of 5 in all." in page.text
    assert "Ceiling: what no classifier exceeds on these samples. Its R&G is not the sum of its accuracies" in page.text


def test_figures_say_that_their_bars_are_intervals(with_base: Path) -> None:
    pictures = dict(page_of(with_base).images)
    drawn = {alt: base64.b64decode(source.partition(",")[2]).decode() for alt, source in pictures.items()}
    assert "<!-- bars: 95 % interval of the mean, 2 pairs -->" in drawn["Paired differences in accuracy"]
    words = "<!-- one line per pair of methods; bars: 95 % interval of the mean, 2 pairs -->"
    assert words in drawn["Paired differences over eps"]
    assert "<!-- mean and 95 % interval over seeds -->" in drawn["R&G of each method"]
    assert "at most 300, -->" in drawn["R&G of each method"]
    assert "Accuracy over eps under pgd" not in drawn  # all methods are in pairs, whose differences are drawn


def test_axes_say_how_many_seeds_or_samples_there_are(seeds: Path) -> None:
    def curve(page: Page) -> str:
        return base64.b64decode(page.images[1][1].partition(",")[2]).decode()

    words = "<!-- one line per method; bars: 95 % interval of the mean over"
    assert f"{words} seeds -->" in curve(page_of(seeds))  # two, and one
    assert f"{words} 2 seeds -->" in curve(page_of(seeds / "0", seeds / "1", output=seeds / "2.html"))


def test_a_single_pair_has_no_interval_in_figure_and_caption(with_base: Path, tmp_path: Path) -> None:
    page = page_of(with_base / "0", with_base / "base_0", output=tmp_path / "pair.html")
    for alt, source in page.images[:3]:
        assert alt.startswith("Paired differences")
        drawn = base64.b64decode(source.partition(",")[2]).decode()
        assert "bars: none, a single pair -->" in drawn
        assert "95 % interval" not in drawn
    captions = " ".join(page.text.split())
    assert captions.count("a single pair, which has no interval.") == 3
    assert "hollow" not in captions
    assert "that it closes" not in captions


def test_without_several_seeds_intervals_are_those_of_the_test_samples(trained: Path, tmp_path: Path) -> None:
    copy_run(trained, tmp_path / "sweep" / "0")
    copy_run(trained, tmp_path / "sweep" / "1", name="other")
    curve = base64.b64decode(page_of(tmp_path / "sweep").images[1][1].partition(",")[2]).decode()
    assert "<!-- one line per method; bars: 95 % interval, 40 samples -->" in curve
    assert "<!-- accuracy under fgsm (%) -->" in curve
    assert "over seeds" not in curve


def test_a_comparison_shows_only_what_differs_in_the_configurations(seeds: Path) -> None:
    assert page_of(seeds).tables["differences"] == [
        ["entry", "gamma=0.1", "gamma=1.0"],
        ["regularizer.gamma", "0.1", "1.0"],
    ]


def test_a_comparison_of_different_data_is_warned_of(seeds: Path) -> None:
    assert "different data" not in page_of(seeds).text
    trained = read_json(seeds / "1" / "summary.json")["trained"]
    edit_summary(seeds / "1", trained={**trained, "data": "other.Data"})
    assert "These runs are of different data, " in page_of(seeds).text


def test_a_comparison_shows_layers_masking_and_versions(seeds: Path) -> None:
    no_sign, unfit = {"raised": False, "seen": "0"}, {"raised": None, "seen": "no bounds"}
    edit_summary(seeds / "0", masking={})
    edit_summary(seeds / "1", masking={"rising_accuracy": {"raised": True, "seen": "50 then 60"}, "b": no_sign})
    edit_summary(seeds / "2", masking={"a": no_sign, "b": no_sign, "c": unfit})
    page = page_of(seeds)
    errors = read_json(seeds / "0" / "summary.json")["profiles"]["pgd"]
    assert page.tables["layers"][1:] == [[layer, *[f"{error:.3f}"] * 3] for layer, error in errors.items()]
    assert [row[2] for row in page.tables["masking"][1:]] == [
        "not checked",
        "rising accuracy : 50 then 60",
        "none; 2 of 3 checks apply",
    ]
    assert "lsa-lightning 0.1.0" in page.tables["versions"][1][2]


def test_a_comparison_draws_scores_and_curves(seeds: Path) -> None:
    alts = [alt for alt, _ in page_of(seeds).images]
    assert alts == ["R&G of each method", "Accuracy over eps under fgsm", "Accuracy over eps under pgd"]


def test_runs_measured_at_different_eps_are_compared_with_a_warning(seeds: Path) -> None:
    radii = [0.0, 0.1, 0.5]
    edit_summary(seeds / "2", eps=radii, rg_eps=radii, accuracy={"square": [90.0, 80.0, 2.5]})
    page = page_of(seeds)
    assert "their R&G cannot be compared" in page.text
    assert page.tables["accuracy-3"][0] == ["run", "seed", "clean", "eps 0.1", "eps 0.3 training", "eps 0.5", "R&G"]
    assert page.tables["accuracy-3"][1][4:] == ["-", f"2.50 {wilson(2.5, 40)}", "172.50"]
    assert page.tables["seeds-1"][2][2:] == ["-"] * 5


def test_a_radius_that_only_training_had_leaves_scores_comparable(seeds: Path) -> None:
    accuracy = {attack: [90.0, 70.0, 60.0, 50.0] for attack in ("fgsm", "pgd")}
    edit_summary(seeds / "2", eps=[0.0, 0.1, 0.2, 0.3], training_eps=0.2, rg_eps=[0.0, 0.1, 0.3], accuracy=accuracy)
    page = page_of(seeds)
    assert "their R&G cannot be compared" not in page.text
    assert [row[-1] for row in page.tables["accuracy-1"][1:]] == ["210.00", "220.00", "210.00"]


def test_the_page_marks_the_radius_of_training_and_names_the_radii_of_the_score(run: Path) -> None:
    accuracy = {attack: [90.0, 70.0, 60.0, 50.0] for attack in ("fgsm", "pgd")}
    edit_summary(run, eps=[0.0, 0.1, 0.2, 0.3], training_eps=0.2, rg_eps=[0.0, 0.1, 0.3], accuracy=accuracy, norm="L2")
    page = page_of(run)
    assert page.tables["accuracy"][0] == ["attack", "clean", "eps 0.1", "eps 0.2 training", "eps 0.3", "R&G of 300"]
    assert page.tables["accuracy"][1][-1] == "210.00"
    assert "60.00 %accuracy in the worst case (fgsm) at the training eps 0.2 (L2), 95 % interval" in " ".join(
        page.text.split()
    )
    assert "210.00R&G of the lowest row (fgsm), of 300" in page.text
    text = " ".join(page.text.split())
    assert "eps in L2. R&G is the sum of the accuracies of a row at eps 0.0, 0.1, 0.3." in text


def test_the_headline_of_clean_training_is_at_the_radius_of_the_threat_model(run: Path) -> None:
    accuracy = {attack: [90.0, 70.0, 60.0, 50.0] for attack in ("fgsm", "pgd")}
    edit_summary(run, eps=[0.0, 0.1, 0.3, 0.5], training_eps=None, rg_eps=None, accuracy=accuracy)
    text = " ".join(page_of(run).text.split())
    assert "60.00 %accuracy in the worst case (fgsm) at eps 0.3 (Linf), 95 % interval" in text
    edit_summary(run, eps=[0.0, 0.1, 0.2, 0.5])
    assert "50.00 %accuracy in the worst case (fgsm) at the largest eps 0.5" in " ".join(page_of(run).text.split())


def without_stages(run: Path) -> None:
    """Take the entries of both stages out of the summary."""
    values = read_json(run / "summary.json")
    stages = ("test_samples", "eps", "accuracy", "intervals", "rg_score", "rg_eps", "training_eps", "norm", "masking")
    for key in (*stages, "measure", "mvl_from", "mvl", "mu", "sigma", "profiles"):
        del values[key]
    write_json(values, run / "summary.json")
    (run / "classes.json").unlink()


def test_a_run_that_only_trained_has_a_page_that_says_so(run: Path) -> None:
    without_stages(run)
    page = page_of(run)
    assert "Not measured: the evaluation was left out." in page.text
    assert set(page.tables) == {"mvl-counts", "mvl-history"}


def test_a_run_that_only_trained_stands_in_a_comparison(trained: Path, tmp_path: Path) -> None:
    bare = copy_run(trained, tmp_path / "bare", config={"evaluation.draw": None})
    without_stages(bare)
    page = page_of(trained, bare, output=tmp_path / "two.html")
    assert [row[5] for row in page.tables["runs"][1:]] == ["40", "-"]
    assert len(page.tables["accuracy-1"]) == 2
    assert {row[2] for row in page.tables["layers"][1:]} == {"-"}
    assert [picture[0] for picture in page.images][:1] == ["R&G of each method"]


def test_runs_that_only_trained_are_compared_without_figures(run: Path, trained: Path, tmp_path: Path) -> None:
    other = copy_run(trained, tmp_path / "other", seed=1)
    for folder in (run, other):
        without_stages(folder)
    page = page_of(run, other, output=tmp_path / "two.html")
    assert page.images == []
    assert "layers" not in page.tables


def test_layers_by_different_measures_are_compared_with_a_warning(run: Path, trained: Path, tmp_path: Path) -> None:
    assert "Relative error of each layer" in page_of(run, trained, output=tmp_path / "same.html").text
    edit_summary(run, measure="cosine_distance")
    text = page_of(run, trained, output=tmp_path / "two.html").text
    assert "Cosine distance or relative error of each layer" in text
    assert "These runs were analysed by different measures, which cannot be compared." in text


def test_the_page_names_the_measure_and_the_attack_of_the_mvl(run: Path) -> None:
    values = read_json(run / "summary.json")["profiles"]
    edit_summary(run, measure="cosine_distance", mvl_from="salt", profiles=values)
    text = " ".join(page_of(run).text.split())
    assert "Cosine distance of each layer under each attack" in text
    assert "(MVL) of the kept weights under salt on these test samples" in text


def test_runs_measured_in_different_norms_are_compared_with_a_warning(seeds: Path) -> None:
    assert "R&G is the sum of the accuracies of a row, at most 100 for each; eps in Linf." in " ".join(
        page_of(seeds).text.split()
    )
    edit_summary(seeds / "2", norm="L2")
    assert "in different norms, so their R&G cannot be compared" in page_of(seeds).text


def test_curves_mark_the_radius_of_training_that_all_runs_share(seeds: Path) -> None:
    def curve(page: Page) -> str:
        return base64.b64decode(page.images[1][1].partition(",")[2]).decode()

    assert "<!-- training eps 0.3 -->" in curve(page_of(seeds))
    assert "<!-- eps (Linf, units of the input) -->" in curve(page_of(seeds))
    edit_summary(seeds / "2", training_eps=0.1)
    assert "training eps" not in curve(page_of(seeds))


def test_only_the_best_of_many_methods_are_drawn_as_lines(trained: Path, tmp_path: Path) -> None:
    for job in range(11):
        copy_run(trained, tmp_path / "sweep" / str(job), name=f"method_{job}")
    assert page_of(tmp_path / "sweep").text.count("Only the 10 methods of highest R&G are drawn.") == 2


def test_jobs_left_out_are_listed_in_the_page_and_printed(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("summary.json", "status.json"):
        (seeds / "0" / name).unlink()
    Status(State.FAILED, reason="ValueError: no <b>luck</b>").save(seeds / "1")
    main([str(seeds)])
    page = Page((seeds / "report.html").read_text())
    header, unknown, failed = page.tables["left-out"]
    assert header == ["job", "state", "since, or why"]
    assert unknown[:2] == [str(seeds / "0"), "unknown"]
    assert failed[:2] == [str(seeds / "1"), "failed"]
    assert failed[2].startswith("ValueError: no <b>luck</b>; last updated ")
    assert "2 of 3 jobs do not count" in page.text
    assert "Comparison of 1 run" in page.text
    assert (seeds / "comparison.csv").is_file()
    printed = capsys.readouterr().out
    assert "ValueError: no <b>luck</b>" in printed
    assert "unknown" in printed


def test_a_cut_file_costs_its_job_alone(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = (seeds / "1" / "summary.json").read_bytes()
    (seeds / "1" / "summary.json").write_bytes(summary[: len(summary) // 2])
    (seeds / "2" / "profile_salt.json").unlink()
    main([str(seeds)])
    page = Page((seeds / "report.html").read_text())
    assert [row[0] for row in page.tables["left-out"][1:]] == [str(seeds / "1")]
    assert len(page.tables["runs"]) == 3
    assert f"Unreadable, left out of its job: {seeds / '2' / 'profile_salt.json'}: No such file" in page.text
    assert "profile_salt.json" in "".join(capsys.readouterr().out.split())


def test_a_cut_figure_costs_itself_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("png", "svg"):
        file = run / "figures" / f"accuracy.{suffix}"
        file.write_bytes(file.read_bytes()[:300])
    file = run / "figures" / "layer_profile.svg"
    file.write_bytes(file.read_bytes()[:300])
    (run / "figures" / "elsewhere.png").symlink_to(run / "figures" / "mvl_history.png")
    (run / "profile_pgd.json").write_bytes(b"\xff\x00")
    main([str(run)])
    page, printed = Page((run / "report.html").read_text()), "".join(capsys.readouterr().out.split())
    shown = dict(page.images)
    assert "Accuracy over eps" not in shown
    assert "elsewhere" not in shown  # a link may lead to a file of the reader's own
    assert shown["Layers"].startswith("data:image/png;base64,")
    for text in (page.text, printed):
        assert f"{run}/figures/accuracy.png" in text
        assert f"{run}/profile_pgd.json" in text


def test_names_cannot_bring_markup_into_the_page(run: Path, trained: Path, tmp_path: Path) -> None:
    edit_summary(run, name=HOSTILE, mvl=[HOSTILE], masking={HOSTILE: {"raised": True, "seen": HOSTILE}})
    (run / "figures" / "<img src=x>.png").write_bytes(PNG)
    page = page_of(run)
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert page.images[-1][0] == "<img src=x>"
    comparison = page_of(run, trained, output=tmp_path / "two.html")
    assert "script" not in comparison.tags
    assert comparison.tables["runs"][1][0] == HOSTILE
    assert len(comparison.images) == 3


def test_labels_that_matplotlib_would_hide_are_drawn(run: Path, trained: Path, tmp_path: Path) -> None:
    edit_summary(run, name="_hidden")
    svg = base64.b64decode(page_of(run, trained, output=tmp_path / "two.html").images[1][1].partition(",")[2]).decode()
    assert "<!--  _hidden -->" in svg


def test_the_report_of_a_run_lies_in_its_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run)])
    file = run / "report.html"
    assert capsys.readouterr().out == f"Report: {file} ({file.stat().st_size / 1e6:.2f} MB)\n"


def test_the_report_of_several_runs_lies_in_the_current_folder(
    run: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main([str(run), str(trained)])
    assert "Comparison of 2 runs" in (tmp_path / "report.html").read_text()


def test_the_output_may_be_named(run: Path, tmp_path: Path) -> None:
    main([str(run), "--output", str(tmp_path / "new" / "x.html")])
    assert (tmp_path / "new" / "x.html").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{tmp}/run", "--output", "{tmp}/run/summary.json"], "expected output to be a file named *.html"),
        (["{tmp}/run", "--output", "{tmp}/run/summary.json/x.html"], "summary.json"),
        (["{tmp}/other"], "expected a run folder of lsa-train, found nothing at {tmp}/other"),
        (["{tmp}/run/figures"], "expected a run folder of lsa-train (config.yaml, summary.json)"),
        (["{tmp}/run", "{tmp}/run"], "expected each run once"),
    ],
)
def test_errors_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    before: Any = (run / "summary.json").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main([argument.format(tmp=tmp_path) for argument in arguments])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.err.startswith("lsa-report: error: ")
    assert expected.format(tmp=tmp_path) in printed.err
    assert printed.err.count("\n") == 1
    assert (run / "summary.json").read_bytes() == before
