"""Steps of others that skip batches, change their ways, or use the model in parts."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, images, loader, trainer
from tests.helpers.training import assert_same, foreign
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks import CatastrophicOverfittingStop

EPS = 0.1


def fgsm(eps: float = EPS) -> FGSM:
    return FGSM(eps, bounds=None)


def at_lr(eps: float = EPS, **options: Any) -> ATLR:
    return ATLR(fgsm(eps), regularizer=LayerwiseRegularizer(0.5), mvl=["net.act"], analysis_every_n_epochs=0, **options)


def normalised(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.25


class Normalises(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(normalised(x)), y)


class SkipsFirst(Normalises):
    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return super().training_step(batch) if batch_idx else None


def test_a_step_that_skips_the_first_batch_is_looked_at_in_the_next() -> None:
    x, y = images()
    skips, without = foreign(SkipsFirst), foreign(Normalises)
    trainer([at_lr()]).fit(skips, DataLoader(TensorDataset(x, y), 16))
    trainer([at_lr()]).fit(without, DataLoader(TensorDataset(x[16:], y[16:]), 16))
    assert_same(skips, without, tolerance=0)


class Phases(Normalises):
    """Begins with another objective, on a part of the model."""

    def training_step(self, batch: Any) -> Any:
        if self.current_epoch == 0:
            return self.net.conv1(batch[0]).square().mean()
        return super().training_step(batch)


def test_a_step_that_calls_parts_first_and_the_model_later_is_looked_at_again() -> None:
    run = trainer([at_lr(eps=0.0, warmup_epochs=1)], max_epochs=2)
    run.fit(foreign(Phases), loader())
    assert float(run.callback_metrics["train/loss_lr"]) == 0


class ValidatesSome(Normalises):
    """Skips the batches of these numbers."""

    def __init__(self, *skipped: int) -> None:
        super().__init__()
        self.skipped = skipped

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        if batch_idx not in self.skipped:
            self(normalised(batch[0]))


def test_batches_that_validation_skips_are_not_measured() -> None:
    x, y = images(48)
    y[32:] = 3 - y[32:]  # never the same
    accuracies = []
    for module, samples in ((foreign_validation(2), 48), (foreign_validation(), 32)):
        run = trainer([RobustValidation({"fgsm": fgsm()})])
        run.validate(module, DataLoader(TensorDataset(x[:samples], y[:samples]), 16), verbose=False)
        accuracies.append(float(run.callback_metrics["val/acc_clean"]))
    assert accuracies[0] == accuracies[1] > 0


def foreign_validation(*skipped: int) -> ForeignModule:
    torch.manual_seed(0)
    return ValidatesSome(*skipped)


def test_a_first_batch_that_validation_skips_is_not_taken_for_one_that_it_leaves_as_it_is() -> None:
    run = trainer([RobustValidation({"fgsm": fgsm()})])
    with pytest.raises(MisconfigurationException, match="skipped batches before, which were measured as they are"):
        run.validate(foreign_validation(0), loader(), verbose=False)


class PartFirst(Normalises):
    """The part is given something else than the model."""

    def training_step(self, batch: Any) -> Any:
        self.net.conv1(batch[0].flip(0))
        return super().training_step(batch)


def test_a_part_that_is_called_before_the_model_is_not_what_counts() -> None:
    part, plain = foreign(PartFirst), foreign(Normalises)
    for module in (part, plain):
        trainer([at_lr()]).fit(module, loader())
    assert_same(part, plain, tolerance=0)


class Unlabelled(ForeignModule):
    """Has a loss of further inputs without labels, before or after that of x."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first

    def training_step(self, batch: Any) -> Any:
        x, y, u = batch
        return self.loss(normalised(x), y, normalised(u))

    def loss(self, x: Tensor, y: Tensor, u: Tensor) -> Tensor:
        if self.first:
            confidence = self(u).softmax(1).square().sum(1).mean()
            return self.labelled(x, y) - confidence
        loss = self.labelled(x, y)
        return loss - self(u).softmax(1).square().sum(1).mean()

    def labelled(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)


class Attacked(Unlabelled):
    """Crafts by itself, where it calls the model on x."""

    def labelled(self, x: Tensor, y: Tensor) -> Tensor:
        self.eval()
        adversarial = fgsm()(self, x, y)
        self.train()
        return super().labelled(adversarial, y)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("size", [8, 5])
def test_inputs_without_labels_are_not_attacked_where_the_step_changes_them(size: int, first: bool) -> None:
    (x, y), u = images(24), torch.rand(3, size, 1, 8, 8)
    batches = list(zip(x.split(8), y.split(8), u, strict=True))
    module, by_hand = foreign(Unlabelled, first=first), foreign(Attacked, first=first)
    for each, callbacks in ((module, [AdversarialTraining(fgsm())]), (by_hand, [])):
        trainer([*callbacks]).fit(each, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert_same(module, by_hand, tolerance=1e-6)


class FromSecondEpoch(Unlabelled):
    """The term on inputs without labels begins later, beside x as it is or changed."""

    def __init__(self, first: bool, changes: bool) -> None:
        super().__init__(first)
        self.changes = changes

    def training_step(self, batch: Any) -> Any:
        x, y, u = batch
        x = normalised(x) if self.changes else x
        return self.loss(x, y, normalised(u)) if self.current_epoch else self.labelled(x, y)


class AttackedFromSecondEpoch(FromSecondEpoch, Attacked):
    pass


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_inputs_without_labels_may_come_into_the_step_later(first: bool, changes: bool) -> None:
    (x, y), u = images(24), torch.rand(3, 8, 1, 8, 8)
    batches = list(zip(x.split(8), y.split(8), u, strict=True))
    options = {"first": first, "changes": changes}
    module, by_hand = foreign(FromSecondEpoch, **options), foreign(AttackedFromSecondEpoch, **options)
    for each, callbacks in ((module, [AdversarialTraining(fgsm())]), (by_hand, [])):
        trainer([*callbacks], max_epochs=2).fit(each, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert_same(module, by_hand, tolerance=1e-6)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("labelled", "unlabelled"), [((8, 8, 5), 5), ((8, 8, 5), 8), (8, (5, 5, 8)), (8, (8, 8, 5))])
def test_inputs_without_labels_may_be_as_many_in_some_batches(labelled: Any, unlabelled: Any, first: bool) -> None:
    sizes = [[each] * 3 if isinstance(each, int) else list(each) for each in (labelled, unlabelled)]
    x, y = images(sum(sizes[0]))
    u = torch.rand(sum(sizes[1]), 1, 8, 8)
    batches = list(zip(x.split(sizes[0]), y.split(sizes[0]), u.split(sizes[1]), strict=True))
    module, by_hand = foreign(Unlabelled, first=first), foreign(Attacked, first=first)
    for each, callbacks in ((module, [AdversarialTraining(fgsm())]), (by_hand, [])):
        trainer([*callbacks]).fit(each, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert_same(module, by_hand, tolerance=1e-6)


class Teaches(ForeignModule):
    """Counts its steps in a buffer, and asks a teacher with a batch norm, before it calls the model."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.teacher = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        self.steps += 1
        return F.cross_entropy(self.net(x), y) + 0 * self.teacher(x).sum()


def test_buffers_outside_of_what_is_attacked_move_once_a_step() -> None:
    watched, plain = foreign(Teaches), foreign(Teaches)
    options: dict[str, Any] = {"backbone": "net"}
    callbacks = [AdversarialTraining(fgsm(0.0), **options), CatastrophicOverfittingStop(fgsm(), drop=1.0, **options)]
    trainer([*callbacks], max_epochs=2).fit(watched, loader())
    trainer([], max_epochs=2).fit(plain, loader())
    assert_same(watched, plain, tolerance=1e-6)


class ByHand(ForeignModule):
    """Optimises by itself, and calls a part of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def changed(self, x: Tensor) -> Tensor:
        return x

    def training_step(self, batch: Any) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(self.changed(batch[0])), batch[1]))
        optimizer.step()


class ByHandNormalised(ByHand):
    def changed(self, x: Tensor) -> Tensor:
        return normalised(x)


def test_a_step_that_optimises_by_itself_does_so_once() -> None:
    stopped, plain = foreign(ByHand), foreign(ByHand)
    trainer([CatastrophicOverfittingStop(fgsm(), drop=1.0, backbone="net")], max_epochs=2).fit(stopped, loader())
    trainer([], max_epochs=2).fit(plain, loader())
    assert_same(stopped, plain, tolerance=0)
    for cls in (ByHand, ByHandNormalised):
        with pytest.raises(MisconfigurationException, match=f"does so before it calls {cls.__name__}, which"):
            trainer([CatastrophicOverfittingStop(fgsm())]).fit(foreign(cls), loader())


@pytest.mark.slow
def test_workers_that_training_shares_with_validation_give_it_all_batches() -> None:
    data = DataLoader(TensorDataset(*images()), 16, num_workers=1, persistent_workers=True)
    run = trainer([ATLR(fgsm(), top_k=1)], max_epochs=2)
    run.fit(foreign(), data, data)
    assert run.global_step == 6


class Gated(Normalises):
    """Asks a part of itself about x, and gives the model something changed after that."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.gate(x)
        logits = self(normalised(x))
        self.log("own", (logits.argmax(1) == y).float().mean(), batch_size=len(x))


def test_what_a_part_is_given_first_is_not_what_the_model_is_given() -> None:
    run = trainer([RobustValidation({"fgsm": fgsm(0.0)})])
    module = foreign(Gated)
    module.net.fc1.weight.data.mul_(6)
    run.validate(module, loader(seed=1), verbose=False)
    assert float(run.callback_metrics["val/acc_clean"]) == pytest.approx(float(run.callback_metrics["own"]))


class Teacher(ForeignModule):
    """A teacher is given x before the model is, whose dropout draws then."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5)
        self.teacher = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 3)).requires_grad_(False)

    def training_step(self, batch: Any) -> Any:
        with torch.no_grad():
            self.teacher(batch[0])
        return super().training_step(batch)


class Draws(ForeignModule):
    """Draws random numbers before it calls the parts of itself, with types cast around them alone."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        torch.rand(3)
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(self.net(x), y)


@pytest.mark.parametrize("cls", [Teacher, Draws])
def test_both_passes_draw_the_same_masks(cls: type[ForeignModule]) -> None:
    run = trainer([at_lr(eps=0.0)])
    run.fit(foreign(cls), loader())
    assert float(run.callback_metrics["train/loss_lr"]) == 0


class Sometimes(Unlabelled):
    """The inputs without labels are asked about in every second step."""

    def __init__(self, changes: bool) -> None:
        super().__init__(first=True)
        self.changes = changes

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        x, y, u = batch
        if batch_idx % 2 == 0:
            self(normalised(u) if self.changes else u)
        return self.labelled(normalised(x), y)


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("callback", [lambda: AdversarialTraining(fgsm()), at_lr])
def test_inputs_without_labels_need_not_be_in_every_step(callback: Any, changes: bool) -> None:
    (x, y), u = images(32), torch.rand(4, 8, 1, 8, 8)
    batches = list(zip(x.split(8), y.split(8), u, strict=True))
    given: list[list[Tensor]] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_: Any, **__: Any) -> None:
            given.append([])

    module = foreign(Sometimes, changes=changes)
    module.net.register_forward_pre_hook(lambda net, args: given[-1].append(args[0].detach()) if net.training else None)
    trainer([callback(), Watch()]).fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    for number, (seen, (inputs, _, others)) in enumerate(zip(given, batches, strict=True)):
        moved = [float((each - normalised(inputs)).abs().max()) for each in seen]
        assert any(each == pytest.approx(EPS, abs=1e-5) for each in moved)
        left_alone = any(torch.equal(each, normalised(others) if changes else others) for each in seen)
        assert left_alone == (number % 2 == 0)


class InTurn(Unlabelled):
    """One line gives the model x and further inputs, of which there is one less in some steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        x, y, u = batch
        inputs = [normalised(each) for each in ([x, u, u / 2] if batch_idx == 0 else [x, u])]
        return sum(F.cross_entropy(self(each), y) for each in inputs)


def test_inputs_of_one_line_are_known_by_their_order() -> None:
    (x, y), u = images(32), torch.rand(4, 8, 1, 8, 8)
    batches = list(zip(x.split(8), y.split(8), u, strict=True))
    module = foreign(InTurn, first=False)
    with pytest.raises(MisconfigurationException, match="x and inputs that do not depend on x in one line"):
        trainer([AdversarialTraining(fgsm())]).fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


class Odd(Unlabelled):
    """Ways of calling the model that come with a later epoch."""

    def __init__(self, way: str) -> None:
        super().__init__(first=False)
        self.way = way

    def training_step(self, batch: Any) -> Any:
        x, _, u = batch
        loss = super().training_step(batch)
        if self.current_epoch == 0:
            return loss
        if self.way == "no_grad":
            with torch.no_grad():
                self(normalised(u) / 2)
        elif self.way == "clean":
            with torch.no_grad():
                self(normalised(x))
        elif self.way == "gradient":
            with torch.no_grad():
                target = self(normalised(u))
            direction = torch.zeros_like(u).requires_grad_()
            distance = (self(normalised(u) + direction) - target).square().sum()
            loss = loss + torch.autograd.grad(distance, direction, create_graph=True)[0].sum()
        elif self.way == "checkpoint":
            loss = loss + 0.1 * checkpoint(self, normalised(u).requires_grad_(), use_reentrant=False).square().mean()
        elif self.way == "chance" and torch.rand(()) < 0.5:
            loss = loss + 0.1 * self(normalised(u) * torch.rand(())).square().mean()
        elif self.way == "rows":
            loss = loss + 0.1 * self(normalised(u[:3])).square().mean()
        return loss

    def labelled(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)


class AttackedOdd(Odd, Attacked):
    def labelled(self, x: Tensor, y: Tensor) -> Tensor:
        return Attacked.labelled(self, x, y)


def penalty_of_0(attack: FGSM) -> ATLR:
    """A penalty whose layers are captured, and that changes nothing."""
    regularizer = LayerwiseRegularizer(1e-12)
    return ATLR(attack, regularizer=regularizer, mvl=["net.act"], analysis_every_n_epochs=0)


@pytest.mark.parametrize("way", ["no_grad", "clean", "gradient", "checkpoint", "chance", "rows"])
@pytest.mark.parametrize("callback", [AdversarialTraining, penalty_of_0])
def test_other_calls_may_come_into_the_step_later(callback: Any, way: str) -> None:
    (x, y), u = images(17), torch.rand(17, 1, 8, 8)
    batches = list(zip(x.split(8), y.split(8), u.split(8), strict=True))  # the last is one sample
    module, by_hand = foreign(Odd, way=way), foreign(AttackedOdd, way=way)
    for each, callbacks in ((module, [callback(fgsm())]), (by_hand, [])):
        torch.manual_seed(2)
        trainer([*callbacks], max_epochs=2).fit(each, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert_same(module, by_hand, tolerance=1e-6)


class LooksWithoutGradients(ForeignModule):
    """Calls the model twice on x, and from the second epoch on with inputs without labels, without gradients."""

    def training_step(self, batch: Any) -> Any:
        (x, y, u), direction = batch, torch.zeros_like(batch[2]).requires_grad_()
        x = normalised(x)
        with torch.no_grad():
            self(x)
        loss = F.cross_entropy(self(x), y)
        slope = torch.autograd.grad(self(normalised(u) + direction).square().sum(), direction, create_graph=True)[0]
        if self.current_epoch:
            with torch.no_grad():
                self(normalised(u) / 2)
        return loss + 1e-3 * slope.square().sum()


def test_a_look_from_within_no_grad_runs_the_step_with_gradients() -> None:
    (x, y), u = images(16), torch.rand(16, 1, 8, 8)
    batches = list(zip(x.split(8), y.split(8), u.split(8), strict=True))
    run = trainer([AdversarialTraining(fgsm())], max_epochs=2)
    run.fit(foreign(LooksWithoutGradients), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert run.global_step == 4


class Embeds(ForeignModule):
    """The last column of x names a category."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))  # type: ignore[assignment]
        self.kinds = nn.Embedding(3, 4)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        assert (x[:, -1] == x[:, -1].round()).all()
        self.kinds(x[:, -1].long())
        return F.binary_cross_entropy_with_logits(self(normalised(x)), y)


def test_rows_of_x_stay_rows_where_the_batch_holds_other_floats() -> None:
    x = torch.cat([torch.rand(24, 5), torch.arange(24)[:, None] % 3], 1)
    data = DataLoader(TensorDataset(x, (torch.arange(24) % 2).float()[:, None]), 8)
    trainer([AdversarialTraining(fgsm())]).fit(foreign(Embeds), data)


class Smooths(ForeignModule):
    """Calls its network, and in every second step itself near x."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        return loss + (self(x + 0.1) - logits).square().mean() if batch_idx % 2 else loss


def test_a_step_that_calls_parts_may_call_the_model_beside_them() -> None:
    smooths = foreign(Smooths)
    trainer([AdversarialTraining(fgsm())]).fit(smooths, loader())


class Counted(ValidatesSome):
    """Tells a metric of what it skips."""

    def __init__(self, *skipped: int) -> None:
        super().__init__(*skipped)
        self.left_out = MeanMetric()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx in self.skipped:
            self.left_out(1.0)
        super().validation_step(batch, batch_idx)


def test_a_metric_that_hears_of_a_skip_is_no_call_of_the_model() -> None:
    x, y = images(48)
    accuracies = []
    for module, samples in ((Counted(2), 48), (Counted(), 32)):
        module.load_state_dict(foreign_validation().state_dict(), strict=False)
        run = trainer([RobustValidation({"fgsm": fgsm()})])
        run.validate(module, DataLoader(TensorDataset(x[:samples], y[:samples]), 16), verbose=False)
        accuracies.append(float(run.callback_metrics["val/acc_clean"]))
    assert accuracies[0] == accuracies[1]


class Lists(ForeignModule):
    """Keeps what it has seen until the epoch ends, in lists and counters, as Lightning's docs show."""

    def __init__(self, parts: bool) -> None:
        super().__init__()
        self.parts = parts
        self.trained, self._validated, self.steps = list[int](), list[int](), 0
        self.counts: list[tuple[int, int, int]] = []

    def training_step(self, batch: Any) -> Any:
        x, y, _ = batch
        self.trained.append(len(x))
        self.steps += 1
        logits = self.net(x) if self.parts else self(normalised(x))
        self.trained.append(len(x))
        return F.cross_entropy(logits, y)

    def validation_step(self, batch: Any) -> None:
        self._validated.append(len(batch[0]))
        self.net(batch[0]) if self.parts else self(normalised(batch[0]))

    def on_validation_epoch_end(self) -> None:
        self.counts.append((sum(self.trained), sum(self._validated), self.steps))
        self.trained.clear()
        self._validated.clear()


@pytest.mark.parametrize("parts", [False, True])
def test_lists_and_counters_of_the_module_hold_each_batch_once(parts: bool) -> None:
    module = foreign(Lists, parts=parts)
    attack = fgsm()
    callbacks = [
        ATLR(attack, top_k=1),
        RobustValidation({"fgsm": attack}),
        CatastrophicOverfittingStop(attack, drop=1.0),
    ]
    x, y = images(48)
    data = DataLoader(TensorDataset(x, y, x.flip(-1)), 16)
    trainer([*callbacks], max_epochs=2).fit(module, data, loader(32, seed=1))
    assert module.counts == [(96, 32, 3), (96, 32, 6)]


class Late(ForeignModule):
    """Calls parts of its network, and from the second step on itself beside them."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        x, y = batch
        net = self.net
        hidden = net.relu2(net.conv2(net.relu1(net.bn1(net.conv1(input=x)))))
        logits = net.fc2(net.act(net.fc1(hidden.flatten(1))))
        loss = F.cross_entropy(logits, y)
        return loss + 0.0 * self(x + 0.5).sum() if batch_idx else loss


def test_parts_stay_attacked_where_the_model_is_called_beside_them() -> None:
    late, moved = foreign(Late), list[float]()

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.x, self.seen = batch[0].clone(), list[float]()

        def look(self, module: nn.Module, args: Any, kwargs: Any) -> None:
            if module.training:
                self.seen.append(float((kwargs["input"] - self.x).abs().max()) if kwargs else 0.0)

        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            moved.append(max(self.seen))

    watch = Watch()
    late.net.conv1.register_forward_pre_hook(watch.look, with_kwargs=True)
    trainer([AdversarialTraining(fgsm()), watch]).fit(late, loader())
    assert moved == pytest.approx([EPS] * 3, abs=1e-5)


class PartsLater(ForeignModule):
    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self(batch[0]) if batch_idx == 0 else self.net(batch[0])


def test_validation_may_call_the_model_and_then_its_parts() -> None:
    accuracies = []
    for cls in (PartsLater, ForeignModule):
        run = trainer([RobustValidation({"fgsm": fgsm()})])
        run.validate(foreign(cls), loader(seed=1), verbose=False)
        accuracies.append(float(run.callback_metrics["val/acc_clean"]))
    assert accuracies[0] == accuracies[1]
