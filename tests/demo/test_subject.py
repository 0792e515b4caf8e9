from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import MNISTDataModule
from lsa_lightning.attacks import ThreatModel
from lsa_lightning.demo import Canvas, Plane, Subject
from lsa_lightning.measures import RelativeError
from lsa_lightning.runs.checkpoint import TrainedRun, load_run

EXAMPLE = Path(__file__).parents[2] / "examples" / "moon" / "checkpoints" / "best.ckpt"


class _Data(pl.LightningDataModule):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.tensors = torch.rand(4, *shape), torch.tensor([0, 1, 0, 1])

    def test_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(TensorDataset(*self.tensors), batch_size=4)


def with_data(data: pl.LightningDataModule) -> TrainedRun:
    run = load_run(str(EXAMPLE))
    return TrainedRun(run.config, run.model, data)


def test_a_run_on_moons_is_a_plane_within_its_threat_model() -> None:
    subject = Subject.of(load_run(str(EXAMPLE)))
    assert isinstance(subject.inputs, Plane)
    assert subject.inputs.points.shape[1] == 2
    assert set(subject.inputs.labels.tolist()) == {0, 1}
    assert subject.threat == ThreatModel("Linf", 0.3, None)
    assert (subject.name, subject.largest_eps) == ("moon_at_lr", 0.5)
    assert isinstance(subject.measure, RelativeError)


def test_images_are_known_without_being_read(tmp_path: Path) -> None:
    subject = Subject.of(with_data(MNISTDataModule(tmp_path / "nothing is here")))
    assert subject.inputs == Canvas((1, 28, 28), None)


def test_images_of_another_data_module() -> None:
    assert Subject.of(with_data(_Data(3, 8, 8))).inputs == Canvas((3, 8, 8), None)


def test_a_plane_of_three_classes_is_refused() -> None:
    data = _Data(2)
    data.tensors = data.tensors[0], torch.tensor([0, 1, 2, 1])
    with pytest.raises(ValueError, match=r"in two classes, 0 and 1, got labels \[2\] too"):
        Subject.of(with_data(data))


@pytest.mark.parametrize("shape", [(5,), (2, 8, 8), (3, 8)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"expected inputs that are images \[1 or 3, H, W\] or points \[2\] of a plane"
    ):
        Subject.of(with_data(_Data(*shape)))
