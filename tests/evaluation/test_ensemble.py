from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, Ensemble
from lsa_lightning.evaluation.ensemble import evaluate_ensemble
from lsa_lightning.functional import predicted_labels


def network(logits: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, logits))


def batches(net: nn.Module, n: int = 5) -> list[tuple[Tensor, Tensor]]:
    x = torch.rand(n, 8, 6, generator=torch.Generator().manual_seed(0))
    labels = [predicted_labels(net.eval()(rows)).detach() for rows in x]
    labels[0][0] = 1 - labels[0][0].clamp(0, 1)
    return list(zip(x, labels, strict=True))


def small(eps: float = 0.1, seed: int = 0) -> Ensemble:
    return Ensemble(eps, steps=5, n_queries=20, seed=seed)


def test_it_counts_what_stands_after_each_attack() -> None:
    net = network()
    data = batches(net)
    net.train()
    result = evaluate_ensemble(net, iter(data), small())
    assert all(module.training for module in net.modules())
    standing = dict.fromkeys(result.accuracy, 0)
    for index, (x, y) in enumerate(data):
        for name, _, left in small().with_stream(index).in_turn(net.eval(), x, y):
            standing[name] += int(left.sum())
    assert result.samples == 40
    assert result.accuracy == {name: 100 * count / 40 for name, count in standing.items()}
    assert list(result.accuracy) == ["clean", "apgd_ce", "apgd_t", "square"]
    assert result.accuracy["clean"] == 97.5
    assert result.robust_accuracy == result.accuracy["square"] < 97.5
    assert result.left_out == {}
    assert json.loads(json.dumps(result.to_dict()))["robust_accuracy"] == result.robust_accuracy


def test_two_classes_say_what_was_left_out() -> None:
    net = network(1)
    with pytest.warns(UserWarning, match="Left out of the ensemble"):
        result = evaluate_ensemble(net, batches(net), small())
    assert list(result.accuracy) == ["clean", "apgd_ce", "square"]
    assert result.left_out == {"apgd_t": "needs 4 classes, the model has fewer"}


def noted(state: Path) -> list[int]:
    """The batches in a state file."""
    return [json.loads(line)["batch"] for line in state.read_text().splitlines()[1:]]


class InterruptionError(RuntimeError):
    pass


def test_an_interrupted_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    net = network()
    data = batches(net)
    whole = evaluate_ensemble(net, data, small())
    state = tmp_path / "folder" / "state.jsonl"

    def stops_early() -> Any:
        yield from data[:3]
        raise InterruptionError

    with pytest.raises(InterruptionError):
        evaluate_ensemble(net, stops_early(), small(), state_file=state)
    assert noted(state) == [0, 1, 2]
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = net.register_forward_hook(count)
    assert evaluate_ensemble(net, data, small(), state_file=state) == whole
    assert passes > 0
    passes = 0
    assert evaluate_ensemble(net, data, small(), state_file=state) == whole
    assert passes == 1  # at one batch, whether this is the model of the file
    handle.remove()
    assert [path.name for path in state.parent.iterdir()] == ["state.jsonl"]


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    net, state = network(), tmp_path / "state.jsonl"
    data = batches(net)
    evaluate_ensemble(net, data, small(), state_file=state)
    with pytest.raises(ValueError, match=r"expected .*state.jsonl to belong to this .*give another file"):
        evaluate_ensemble(net, data, small(eps=0.2), state_file=state)
    with pytest.raises(ValueError, match=r"expected batch 0 to be the one noted in .*do not shuffle"):
        evaluate_ensemble(net, data[::-1], small(), state_file=state)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(ValueError, match="give another file"):
        evaluate_ensemble(net, data, small(), state_file=state)


def test_an_empty_dataloader_is_named() -> None:
    with pytest.raises(ValueError, match="at least one batch, got an empty one"):
        evaluate_ensemble(network(), [], small())


def _in_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    net = network()
    result = evaluate_ensemble(net, batches(net), small(), state_file=Path(folder) / "state.jsonl")
    (Path(folder) / f"result{rank}.json").write_text(json.dumps(result.to_dict()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_get_the_result_of_one(tmp_path: Path) -> None:
    mp.spawn(_in_process, (str(tmp_path),), nprocs=2)
    net = network()
    whole = evaluate_ensemble(net, batches(net), small())
    for rank in (0, 1):
        assert json.loads((tmp_path / f"result{rank}.json").read_text()) == whole.to_dict()
    assert [noted(tmp_path / name) for name in ("state.jsonl", "state.jsonl.rank1")] == [[0, 2, 4], [1, 3]]
    assert evaluate_ensemble(net, batches(net), small(), state_file=tmp_path / "state.jsonl") == whole


class Unruly(torch.nn.Module):
    """Draws random numbers in eval mode, and changes its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sub_(0.5) + 0.01 * torch.rand(1)


def test_random_state_and_inputs_are_left_as_they_were() -> None:
    x, y, state = torch.rand(8, 3), torch.randint(3, (8,)), torch.get_rng_state()
    before = x.clone()
    evaluate_ensemble(Unruly(), [(x, y)], Ensemble(0.1, attacks={"fgsm": FGSM(0.1)}))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_outside_the_bounds_are_refused_also_where_no_sample_stands() -> None:
    x = torch.tensor([[2.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="expected inputs inside bounds"):
        evaluate_ensemble(torch.nn.Identity(), [(x, torch.tensor([1]))], Ensemble(0.1, attacks={"fgsm": FGSM(0.1)}))


class Noisy(nn.Module):
    """Adds noise to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x + 0.3 * torch.randn_like(x))
        return logits


def test_a_model_that_draws_is_judged_by_the_seed_alone(tmp_path: Path) -> None:
    net = Noisy()
    data, results = batches(net.net, 2), []
    for global_seed, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        results.append(evaluate_ensemble(net, data, small(), seed=seed).accuracy)
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_what_stands_is_judged_with_the_statistics_of_the_whole_batch(seed: int) -> None:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    net = nn.Sequential(nn.Linear(6, 16), norm, nn.ReLU(), nn.Linear(16, 5)).eval()
    x = torch.rand(64, 6)
    y = net(x).argmax(1)
    x_adv = small(0.02).with_stream(0)(net, x, y)
    stands = 100 * float((net(x_adv).argmax(1) == y).float().mean())
    assert evaluate_ensemble(net, [(x, y)], small(0.02)).robust_accuracy == stands < 100
