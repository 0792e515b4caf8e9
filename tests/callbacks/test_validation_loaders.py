from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import CombinedLoader
from tests.helpers.modules import ForeignModule, images, loader, trainer
from tests.helpers.training import foreign, pgd
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lsa_lightning import ATLR, AdversarialTraining, LayerSustainabilityAnalysis, RobustValidation
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks.validation_loaders import ValidationLoaders


class Several(ForeignModule):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch["a"] if isinstance(batch, dict) else batch
        if y.ndim == 1:
            self.log("own", (self(x).argmax(1) == y).float().mean(), batch_size=len(x))


def unlabelled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(images(32)[0], torch.zeros(32, 2)), batch_size=16)


def validated(callback: RobustValidation, loaders: Any) -> dict[str, float]:
    run = trainer([callback])
    run.validate(foreign(Several), loaders, verbose=False)
    return {key: float(value) for key, value in run.callback_metrics.items()}


def test_each_loader_has_its_keys_as_lightning_names_them() -> None:
    metrics = validated(RobustValidation({"fgsm": FGSM(0.1)}), [loader(seed=1), loader(40, seed=2)])
    for index in (0, 1):
        own = metrics[f"own/dataloader_idx_{index}"]
        assert metrics[f"val/acc_clean/dataloader_idx_{index}"] == pytest.approx(own, abs=1e-6)
        assert f"val/acc_fgsm/dataloader_idx_{index}" in metrics
    assert "val/acc_clean" not in metrics


def test_loaders_of_a_dict_have_their_names() -> None:
    metrics = validated(RobustValidation({"fgsm": FGSM(0.1)}), {"clean": loader(seed=1), "fog": loader(seed=2)})
    assert metrics["val/acc_clean/fog"] == pytest.approx(metrics["own/dataloader_idx_1"], abs=1e-6)


@pytest.mark.parametrize("chosen", [[0], ["a"]])
def test_unlabelled_loaders_can_be_left_out(chosen: list[int | str]) -> None:
    callbacks = [RobustValidation({"fgsm": FGSM(0.1)}, dataloaders=chosen), ATLR(pgd(), analysis_dataloader=chosen[0])]
    run = trainer(callbacks)
    run.fit(foreign(Several), loader(), {"a": loader(seed=1), "b": unlabelled()})
    assert [key for key in run.callback_metrics if key.startswith("val/")] == ["val/acc_clean/a", "val/acc_fgsm/a"]


@pytest.mark.parametrize("chosen", [1, "b"])
def test_one_loader_makes_the_list(chosen: int | str) -> None:
    module, callback = foreign(Several), ATLR(FGSM(0.1), analysis_dataloader=chosen)
    trainer([callback]).fit(module, loader(), {"a": loader(seed=1), "b": loader(seed=2)})
    expected = LayerSustainabilityAnalysis(module).run(loader(seed=2), FGSM(0.1))
    assert callback.history[0].report.mean.tolist() == pytest.approx(expected.mean.tolist(), abs=1e-6)


@pytest.mark.parametrize("chosen", [2, "c"])
def test_an_unknown_loader_is_named(chosen: int | str) -> None:
    callback = RobustValidation({"fgsm": FGSM(0.1)}, dataloaders=[chosen])
    with pytest.raises(MisconfigurationException, match=r"dataloaders: expected .* among \['a', 'b'\], got"):
        validated(callback, {"a": loader(seed=1), "b": loader(seed=2)})


@pytest.mark.parametrize("limit", [1.0, 1, 0.5])
@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_batches_of_all_loaders_at_once_are_analysed_as_validation_gets_them(mode: Any, limit: float) -> None:
    module = foreign(Several)
    first = lambda batch: batch["a"] if isinstance(batch, dict) else batch  # noqa: E731
    callback, measured = ATLR(FGSM(0.1), batch_fn=first), RobustValidation({"fgsm": FGSM(0.1)}, batch_fn=first)
    run = trainer([callback, measured], limit_val_batches=limit)
    run.fit(module, loader(), CombinedLoader({"a": loader(seed=1), "b": loader(32, seed=2)}, mode))
    batches = list(loader(seed=1))[: 1 if limit != 1.0 or type(limit) is int else 2 if mode == "min_size" else 3]
    expected = LayerSustainabilityAnalysis(module).run(batches, FGSM(0.1))
    assert callback.history[0].report.samples == expected.samples
    assert callback.history[0].report.mean.tolist() == pytest.approx(expected.mean.tolist(), abs=1e-6)
    assert run.callback_metrics["val/acc_clean"] == pytest.approx(float(run.callback_metrics["own"]), abs=1e-6)


class Augmenting(ForeignModule):
    """Augments while it trains, by each of the three signs that modules go by."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        run = self.trainer
        return (x.flip(2) if run.training or self.training or torch.is_grad_enabled() else x), y


def test_the_first_analysis_sees_the_batches_of_validation() -> None:
    module, seen = foreign(Augmenting), []

    class Seeing(FGSM):
        def __call__(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
            seen.append(x)
            return super().__call__(model, x, y)

    callback = ATLR(FGSM(0.1), analysis_attack=Seeing(0.1))
    run = trainer([callback])
    run.fit(module, loader(), loader(seed=1))
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[0], images(48, 1)[0][:16])


@pytest.mark.parametrize(("samples", "processes"), [(5, 2), (8, 4), (7, 3), (2, 4)])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_samples_that_a_distributed_sampler_repeats_are_counted_once(samples: int, processes: int, size: int) -> None:
    data = TensorDataset(torch.arange(samples))
    found: list[int] = []
    for rank in range(processes):
        batches = DataLoader(data, size, sampler=DistributedSampler(data, processes, rank, shuffle=False))
        run = trainer([])
        run.fit_loop.epoch_loop.val_loop._combined_loader = CombinedLoader(batches, "sequential")
        run.state.fn = "fit"  # type: ignore[assignment]
        loaders = ValidationLoaders(run)
        for number, (batch,) in enumerate(batches):
            found += batch[: loaders.real_samples(0, number, len(batch))].tolist()
    assert sorted(found) == list(range(samples))


def test_an_analysis_takes_nothing_from_a_generator_that_loaders_share() -> None:
    orders = []
    for analyses in (0, 1):
        generator = torch.Generator().manual_seed(0)
        training = DataLoader(TensorDataset(*images(32)), 8, shuffle=True, generator=generator)
        validation = DataLoader(TensorDataset(*images(16, seed=1)), 8, generator=generator)
        seen: list[Tensor] = []
        module = foreign()
        module.on_train_batch_start = lambda batch, _, seen=seen: seen.append(batch[0])  # type: ignore[method-assign]
        callback = ATLR(FGSM(0.1), top_k=1) if analyses else AdversarialTraining(FGSM(0.1))
        trainer([callback], max_epochs=3).fit(module, training, validation)
        orders.append(torch.cat(seen))
    assert torch.equal(*orders)
