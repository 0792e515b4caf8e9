"""What is analysed is what is penalised, in passes of training that differ from those in eval mode."""

from __future__ import annotations

from collections.abc import Mapping

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import trainer
from tests.helpers.stateful_models import points
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lsa_lightning import ATLR, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import FGSM
from lsa_lightning.objectives import TRADES


class Module(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Skipping(nn.Module):
    """Blocks that share a ReLU; in training each is left out every other time, or always."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.fc = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 9)
        self.relu, self.head = nn.ReLU(), nn.Linear(9, 4)
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for block in (self.a, self.b):
            if not self.training or (torch.rand(()) > 0.5 and not self.always):
                x = x + self.relu(block(x))
        return self.head(self.relu(self.fc(x)))


class Seen(LayerwiseRegularizer):
    """Remembers the widths of the layers of each step, and the penalties."""

    def __init__(self) -> None:
        super().__init__(gamma=0.1)
        self.widths: list[dict[str, int]] = []
        self.penalties: list[float] = []

    def __call__(self, clean: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], *, epoch: int = 0) -> Tensor:
        self.widths.append({name: tensor.shape[1] for name, tensor in clean.items()})
        penalty = super().__call__(clean, perturbed, epoch=epoch)
        self.penalties.append(float(penalty))
        return penalty


def batches(n: int = 64) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*points(n)), batch_size=8)


LIST = ["net.relu#0", "net.relu#1", "net.relu#2", "net.relu#3"]


def fit(net: nn.Module, callback: ATLR) -> None:
    torch.manual_seed(0)
    trainer([callback]).fit(Module(net), batches(), batches(16))


@pytest.mark.parametrize("mvl", [None, LIST])
def test_a_skipped_layer_has_no_penalty_in_that_step_and_no_other_is_taken_for_it(mvl: list[str] | None) -> None:
    seen = Seen()
    fit(Skipping(), ATLR(FGSM(0.05), regularizer=seen, mvl=mvl, top_k=4))
    widths = dict(zip(LIST, (16, 16, 16, 9), strict=True))
    assert all(step.items() <= widths.items() for step in seen.widths)
    assert {len(step) for step in seen.widths} > {3}


def test_at_eps_0_a_network_that_skips_blocks_has_no_penalty() -> None:
    seen = Seen()
    fit(Skipping(), ATLR(FGSM(0.0), regularizer=seen, mvl=LIST))
    assert seen.penalties == [0.0] * len(seen.penalties) != []


def test_a_layer_that_no_step_ran_is_named_after_the_epoch() -> None:
    with pytest.warns(UserWarning, match=r"No step of this epoch ran the layers \['net.relu#1', 'net.relu#2'\]"):
        fit(Skipping(always=True), ATLR(FGSM(0.05), mvl=LIST))


def test_steps_without_any_penalized_layer_log_a_penalty_of_0() -> None:
    callback = ATLR(FGSM(0.05), mvl=["net.a"])
    fitted = trainer([callback])
    with pytest.warns(UserWarning, match=r"No step of this epoch ran the layers \['net.a'\]"):
        fitted.fit(Module(Skipping(always=True)), batches(), batches(16))
    assert float(fitted.callback_metrics["train/loss_lr"]) == 0.0


def test_a_layer_under_no_grad_is_an_error_before_the_first_optimizer_step() -> None:
    class Features(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(not self.training):
                x = self[1](self[0](x))
            return self[2](x)

    net = Features(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    before = net[2].weight.clone()
    with pytest.raises(MisconfigurationException, match=r"gradients are on, got \['net.1'\]"):
        fit(net, ATLR(FGSM(0.05), mvl=["net.1"]))
    assert torch.equal(net[2].weight, before)


def test_a_step_that_does_not_call_the_model_is_named_where_its_output_is_needed() -> None:
    class Around(Module):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net[2](self.net[1](self.net[0](batch[0]))), batch[1])

    module = Around(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    with pytest.raises(MisconfigurationException, match="expected training_step to call the model itself"):
        trainer([ATLR(FGSM(0.05), TRADES(), mvl=["1"], backbone="net")]).fit(module, batches(), batches(16))


def test_one_analysed_layer_says_how_to_choose_it() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.warns(UserWarning, match=r"Only net\.1 is analysed, and Algorithm 1 cannot choose it.*top_k=1"):
        fit(net, ATLR(FGSM(0.05)))


def test_a_sample_that_the_sampler_repeats_is_analysed_and_validated_once() -> None:
    data = TensorDataset(*points(13))
    last: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data, num_replicas=2, rank=1, shuffle=False)
    validation = DataLoader(data, batch_size=4, sampler=last)
    callback, validated = ATLR(FGSM(0.05)), RobustValidation({"fgsm": FGSM(0.05)})
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    trainer([callback, validated], use_distributed_sampler=False).fit(Module(net), batches(), validation)
    assert len(last) == 7
    assert callback.history[0]["samples"] == 6
    assert float(validated._means["val/acc_clean"].weight) == 6
