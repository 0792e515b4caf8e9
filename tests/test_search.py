"""The search of docs/protocol.md trains what it says, and its page holds what its rows say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

import pytest
import torch
from benchmarks.search import __main__ as search
from benchmarks.search.__main__ import Table, best, chosen, final, trained
from benchmarks.search.arms import TUNED, fixed, trials
from benchmarks.search.judging import judged
from benchmarks.search.settings import SETTINGS
from benchmarks.search.training import Data, Setting, Trained, Trial, train
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scripts import docs_results
from torch import Tensor, nn

from lsa_lightning.attacks import PGD
from lsa_lightning.functional import classification_loss, select_mvl
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.measures import RelativeSquaredError
from lsa_lightning.regularizers import LayerwiseRegularizer, TrainingRamp
from lsa_lightning.utils.paths import CONF_DIR

WITHOUT_STARTS = Trial(attack="fgsm")
LAYERS = Trial(attack="fgsm", gamma=0.5, measure="relative_squared_error", layers=("act1", "logits"), awp=0.01)
ALL = replace(LAYERS, attack="pgd", unlabelled=True, kl=0.3)


def short(name: str = "moon-30", steps: int = 3) -> Setting:
    return replace(SETTINGS[name](Path()), steps=steps, batch=30, validations=1)


@pytest.mark.parametrize("trial", [WITHOUT_STARTS, LAYERS])
def test_a_seed_is_trained_among_others_as_alone(trial: Trial) -> None:
    setting = short()
    together = train(setting, trial, [3, 4], setting.data([3, 4])).net.state_dict()
    alone = train(setting, trial, [4], setting.data([4])).net.state_dict()
    for name, weights in alone.items():
        torch.testing.assert_close(together[name][1], weights[0], atol=1e-5, rtol=1e-4)


def test_a_quick_setting_trains_nearly_the_same_network() -> None:
    setting = short("digits-100")
    data = setting.data([3])
    exact, quick = (train(replace(setting, quick=each), ALL, [3], data).net.state_dict() for each in (False, True))
    gaps = torch.cat([(quick[name] - weights).abs().flatten() for name, weights in exact.items()])
    assert 0 < float(gaps.mean()) < 0.001  # each weight has moved by 0.005 on average


def test_images_are_laid_out_in_training_and_judging_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def laid_out(tensor: Tensor) -> bool:
        return tensor.is_contiguous(memory_format=torch.channels_last)

    class Watched(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(laid_out(x))
            return super().forward(x)

    def look(setting: Setting, model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, float]:
        return {"weights": laid_out(model[0].weight), "images": laid_out(x)}

    seen: list[bool] = []
    monkeypatch.setattr("benchmarks.search.judging.standing", look)
    images = torch.rand(1, 4, 3, 8, 8)
    part = images, torch.zeros(1, 4, dtype=torch.long)
    setting = replace(
        SETTINGS["cifar-2000"](Path()),
        network=lambda: nn.Sequential(Watched(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)),
        layout=torch.channels_last,
        steps=1,
        quick=False,
        device="cpu",
    )
    net = train(setting, Trial(eps=0.1), [0], Data(part, part, part, images)).net
    assert seen == [True]
    assert judged(setting, net, part, 0) == {"weights": True, "images": True}


@pytest.mark.parametrize("trial", [Trial(beta=3.0, keep_best=True), ALL])
def test_the_same_seeds_give_the_same_networks(trial: Trial) -> None:
    setting = short()
    runs = [train(setting, trial, [3, 4], setting.data([3, 4])) for _ in range(2)]
    assert torch.equal(runs[0].scores, runs[1].scores)
    for one, other in zip(runs[0].net.parameters(), runs[1].net.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mvl", [False, True])
def test_a_step_is_that_of_adversarial_training_with_the_penalty(mvl: bool) -> None:
    layers = ("learnable",) if mvl else ("act1", "logits")
    setting, trial = short(steps=1), Trial(gamma=0.5, measure="relative_squared_error", layers=layers, mvl=mvl)
    data = setting.data([0])
    trained = train(setting, trial, [0], data).net.state_dict()
    torch.manual_seed(0)
    net, x, y = setting.network(), *own(data)
    optimizer = torch.optim.AdamW(net.parameters(), lr=trial.lr, weight_decay=0.0)
    x_adv = PGD(trial.eps, trial.eps / 2, steps=5, bounds=None, seed=0)(net.eval(), x, y)
    sides = []
    for inputs in (x, x_adv):
        with LayerProbe(net, ["act1", "act2", "act3"] if mvl else layers) as probe:
            net(inputs)
        sides.append(probe.representations)
    if mvl:
        errors = [RelativeSquaredError()(sides[0][name], sides[1][name]).mean().item() for name in sides[0]]
        named = select_mvl(list(sides[0]), errors, mu=fmean(errors), sigma=1.0)
        assert 0 < len(named) < 3
        sides = [{name: side[name] for name in named} for side in sides]
    penalty = LayerwiseRegularizer(0.5, measure=RelativeSquaredError())(*sides)
    (classification_loss(net(x_adv), y) + penalty).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for name, weights in net.state_dict().items():
        torch.testing.assert_close(trained[name][0], weights, atol=1e-5, rtol=1e-3)


def own(data: Data) -> tuple[Tensor, Tensor]:
    """The batch of the first step: all points of the only seed, in the order drawn."""
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1_000_003))
    return data.train[0][0][order], data.train[1][0][order]


def test_a_ramped_penalty_and_a_growing_radius_begin_small() -> None:
    setting = short(steps=1)
    data = setting.data([0])

    def trained(trial: Trial, warmup: float = 0.0) -> dict[str, Tensor]:
        return train(replace(setting, warmup=warmup), trial, [0], data).net.state_dict()

    ramped, plain = trained(replace(LAYERS, ramp=True)), trained(replace(LAYERS, gamma=0.0))
    growing, small = trained(WITHOUT_STARTS, warmup=1.0), trained(replace(WITHOUT_STARTS, eps=WITHOUT_STARTS.eps / 10))
    for one, other in ((ramped, plain), (growing, small)):
        for name, weights in one.items():
            torch.testing.assert_close(other[name], weights, atol=1e-6, rtol=1e-5)
    assert not torch.equal(trained(LAYERS)["fc1.weight"], ramped["fc1.weight"])


def test_test_digits_are_seen_by_no_other_split() -> None:
    data = SETTINGS["digits-100"](Path()).data([0, 7])
    test = {tuple(image.flatten().tolist()) for image in data.test[0][0]}
    assert torch.equal(data.test[0][0], data.test[0][1])
    for part in (data.train[0], data.val[0], data.pool):
        assert not torch.equal(part[0], part[1])
        assert not test & {tuple(image.flatten().tolist()) for image in part.flatten(0, 1)}


def test_arms_differ_in_what_they_add_alone() -> None:
    setting = SETTINGS["moon-60"](Path())
    by_arm = {arm: trials(arm, setting, 20) for arm in TUNED}
    off = {"gamma": 0.0, "measure": "relative_error", "layers": ("learnable",), "ramp": False, "unlabelled": False}
    for one, other, third in zip(by_arm["tuned"], by_arm["lr"], by_arm["lr_u"], strict=True):
        assert replace(other, **off) == one  # type: ignore[arg-type]
        assert other.gamma > 0
        assert third == replace(other, unlabelled=True)
    assert by_arm["tuned"][0] == replace(fixed("base", setting), keep_best=True)


def test_the_best_trial_has_the_largest_mean_over_all_seeds(tmp_path: Path) -> None:
    table = Table(tmp_path / "tuning.csv", ("setting", "arm", "trial", "seed", "score"))
    table.add([["moon-30", "lr", trial, seed, score] for trial, seed, score in ((0, 1, 9), (1, 1, 5), (1, 2, 6))])
    assert best(table.of("moon-30", "lr"), [1, 2]) == [(1, 5.5)]
    assert best(table.of("moon-30", "lr"), [1])[0] == (0, 9.0)


def test_the_chosen_trial_is_one_of_the_first(tmp_path: Path) -> None:
    setting = short()
    rows = [[setting.name, "tuned", t, "{}", seed, t] for t in range(5) for seed in (*setting.first, *setting.more)]
    Table(tmp_path / "tuning.csv", ("setting", "arm", "trial", "hyperparameters", "seed", "score")).add(rows)
    for number in (5, 3):
        assert chosen(setting, "tuned", number, tmp_path) == trials("tuned", setting, number)[-1]


def test_judging_that_was_interrupted_goes_on_with_the_networks_of_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(setting: Setting, net: nn.Module, test: tuple[Tensor, Tensor], index: int) -> dict[str, float]:
        if index == 1:
            raise KeyboardInterrupt
        return judged(setting, net, test, index)

    def judge(*folders: str) -> list[list[str]]:
        results, kept = (tmp_path / folder for folder in folders)
        final(replace(short(steps=1), seeds=range(3, 6)), "base", 20, results, kept, None)
        return [list(row.values()) for row in Table(results / "final.csv", ()).rows()]

    expected = judge("whole", "whole kept")
    with patch.object(search, "judged", interrupted), pytest.raises(KeyboardInterrupt):
        judge("parts", "kept")
    assert {row["seed"] for row in Table(tmp_path / "parts/final.csv", ()).rows()} == {"3"}
    monkeypatch.setattr(search, "train", None)
    assert judge("parts", "kept") == expected
    assert not list((tmp_path / "kept").iterdir())


def test_networks_that_were_trained_otherwise_are_not_taken(tmp_path: Path) -> None:
    setting, file = short(steps=1), tmp_path / "kept.pt"
    data = setting.data([3])
    weights = [trained(setting, Trial(lr=lr), [3], data, file).state_dict() for lr in (0.001, 0.1, 0.1)]
    assert all(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    torch.testing.assert_close(weights[2], weights[1], rtol=0, atol=0)


def test_as_many_seeds_are_trained_side_by_side_as_the_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(setting: Setting, trial: Trial, seeds: list[int], data: Data) -> Trained:
        groups.append(seeds)
        return train(setting, trial, seeds, data)

    groups: list[list[int]] = []
    monkeypatch.setattr(search, "train", noted)
    monkeypatch.setattr(search, "judged", lambda *_: {"R&G": 450.0})
    final(replace(short(steps=1), seeds=range(3), together=2), "base", 20, tmp_path, tmp_path, None)
    assert groups == [[0, 1], [2]]


def test_each_seed_is_judged_by_its_own_network() -> None:
    setting = short(steps=1)
    data = setting.data([3, 4])
    x, y = (part[:1, :60].repeat(2, *[1] * (part.ndim - 1)) for part in data.test)  # the same points for both
    net = train(setting, Trial(), [3, 4], data).net
    first, second = (judged(setting, net, (x, y), index) for index in range(2))
    assert first != second
    assert first["R&G"] == pytest.approx(sum(first[f"exact {eps:g}"] for eps in setting.radii))


@pytest.mark.parametrize(
    ("arm", "method"),
    [("lr_ramped", "default"), ("lr_centered 0.3", "centered"), ("lr_centered_mvl", "centered_mvl")],
)
def test_an_untuned_arm_is_what_the_method_is(arm: str, method: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base=None):
        config = compose("train", [f"method={method}"])
    trial = fixed(arm, SETTINGS["moon-60"](Path()))
    schedule = config.regularizer.schedule
    assert (trial.gamma, trial.measure) == (config.regularizer.gamma, instantiate(config.measure).name)
    fixed_layers = config.method.get("mvl")
    assert trial.mvl == (fixed_layers is None)
    assert list(trial.layers) == (["learnable"] if trial.mvl else list(fixed_layers))
    assert trial.ramp
    assert vars(instantiate(schedule)) == vars(TrainingRamp())


def test_a_difference_is_paired_and_its_interval_corrected(tmp_path: Path) -> None:
    rows = [("lr", 0, 5.0), ("lr", 1, 9.0), ("tuned", 1, 7.0), ("tuned", 0, 4.0), ("lr", 2, 100.0)]
    with (tmp_path / "final.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "arm", "hyperparameters", "seed", "metric", "value"])
        for setting in ("moon-30", "moon-60"):
            writer.writerows([setting, arm, "{}", seed, "R&G", value] for arm, seed, value in rows)
    scores = docs_results.read(tmp_path / "final.csv")
    found = docs_results.difference(scores, "moon-30", "lr", "tuned")
    assert found is not None
    assert found.mean == 1.5
    assert found.half == pytest.approx(12.706 * 0.5, rel=1e-3)
    assert found.corrected == pytest.approx(25.452 * 0.5, rel=1e-3)
    assert docs_results.difference(scores, "moon-30", "lr", "kl_u") is None


def test_settings_of_two_seeds_are_left_out_and_pairs_of_one_or_none_have_no_interval(tmp_path: Path) -> None:
    rows = [("cifar-2000", arm, seed) for arm in ("tuned", "kl_u") for seed in range(2)]
    rows += [("mnist-500", "lr", 0), *(("mnist-500", "tuned", seed) for seed in range(3))]
    with (tmp_path / "final.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "arm", "hyperparameters", "seed", "metric", "value"])
        for setting, arm, seed in rows:
            writer.writerow([setting, arm, "{}", seed, "all attacks", 20.0 + seed])
    scores = docs_results.read(tmp_path / "final.csv")
    assert list(scores) == ["mnist-500"]
    text = docs_results.tables(scores)
    assert "| mnist-500 | 3 |  |  |  |  |  |  | 21.0 ± 2.5 | 20.0 |  |  |" in text
    untuned, tuned = text.split("\n\n")[1:]
    assert "mnist-500" not in untuned, "no pair of it was run"
    assert "mnist-500" not in tuned, "one pair says nothing of chance"


def test_the_page_holds_what_the_rows_say() -> None:
    text = docs_results.PAGE.read_text(encoding="utf-8")
    assert docs_results.page(text, docs_results.sections()) == text
    text = docs_results.README.read_text(encoding="utf-8")
    assert docs_results.page(text, {"gains": docs_results.gains(docs_results.read())}) == text


def test_runs_are_collected_beside_those_that_are_there(tmp_path: Path) -> None:
    def run(seed: int, rg: float, eps: tuple[float, ...] = (0.0, 0.3)) -> Path:
        folder = tmp_path / f"seed-{seed}-{rg}"
        folder.mkdir()
        found = {"name": "AT", "seed": seed, "eps": eps, "rg_score": {"fgsm": rg}, "accuracy": {"fgsm": [99.0, rg]}}
        (folder / "summary.json").write_text(json.dumps(found))
        return folder

    table = tmp_path / "table.csv"
    for each in (run(1, 100.5), run(0, 90.0), run(1, 110.0)):
        docs_results.collect(each, table)
    assert table.read_text() == "row,seed,attack,rg,0.0,0.3\nAT,0,fgsm,90.0,99.0,90.0\nAT,1,fgsm,110.0,99.0,110.0\n"
    with pytest.raises(ValueError, match=r"expected runs with the columns of .*'0\.3'\], got .*'0\.4'\]"):
        docs_results.collect(run(2, 1.0, (0.0, 0.4)), table)
    with pytest.raises(FileNotFoundError, match="found no summary"):
        docs_results.collect(tmp_path / "nowhere", table)
