"""Sharing by the Hugging Face Hub, with a folder on this machine in its place."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lsa_lightning import RobustClassifier
from lsa_lightning.hub import from_pretrained, model_card, push_to_hub
from lsa_lightning.runs import installed
from lsa_lightning.runs.read import read_run

EXAMPLE = Path(__file__).parents[1] / "examples" / "moon"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the repositories."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    class Api:
        def __init__(self, **_: Any) -> None:
            pass

        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
            (tmp_path / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: Path, revision: str | None, commit_message: str) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id, dirs_exist_ok=True)
            return f"hub:{repo_id}"

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        target = tmp_path / "cache" / repo_id
        for pattern in allow_patterns:
            (target / pattern).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tmp_path / repo_id / pattern, target / pattern)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return tmp_path


def test_what_was_pushed_comes_back(hub: Path) -> None:
    assert push_to_hub(EXAMPLE, "somebody/moon") == "hub:somebody/moon"
    files = {str(file.relative_to(hub / "somebody" / "moon")) for file in (hub / "somebody" / "moon").rglob("*")}
    assert {"README.md", "report.html", "config.yaml", "summary.json", "profile_pgd.json"} <= files
    model = from_pretrained("somebody/moon")
    assert isinstance(model, RobustClassifier)
    assert not model.training
    x = torch.randn(7, 2)
    assert torch.equal(model(x), from_pretrained(str(EXAMPLE))(x))


def test_the_page_is_about_the_run(hub: Path) -> None:
    push_to_hub(EXAMPLE, "somebody/moon")
    page = (hub / "somebody" / "moon" / "report.html").read_text()
    assert "moon_at_lr" in page
    assert str(EXAMPLE) not in page


def test_a_folder_of_this_machine_that_holds_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^expected .* got {re.escape(str(tmp_path))}.*does not exist$"):
        from_pretrained(str(tmp_path))


def test_what_a_repository_names_is_looked_at_first(hub: Path) -> None:
    push_to_hub(EXAMPLE, "somebody/moon")
    config = hub / "somebody" / "moon" / "config.yaml"
    config.write_text(config.read_text().replace("lsa_lightning.models.MLP", "os.system"))
    with pytest.raises(ValueError, match=r"model\.backbone: expected an nn\.Module.* got 'os\.system'"):
        from_pretrained("somebody/moon")


def test_weights_that_run_code_are_refused(hub: Path) -> None:
    push_to_hub(EXAMPLE, "somebody/moon")
    torch.save({"state_dict": torch.nn.Linear(2, 2)}, hub / "somebody" / "moon" / "checkpoints" / "best.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        from_pretrained("somebody/moon")


def test_the_card_has_the_accuracies() -> None:
    run = read_run(EXAMPLE)
    card = model_card(run, "somebody/moon")
    assert card.startswith("---\nlibrary_name: lsa-lightning\n")
    assert 'from_pretrained("somebody/moon")' in card
    assert run.summary.evaluation is not None
    for name, row in run.summary.evaluation.accuracy.items():
        assert f"| {name} | {' | '.join(f'{each:.1f}' for each in row)} |" in card


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'pip install "lsa-lightning\[hub\]"'):
        from_pretrained("somebody/moon")
    with pytest.raises(ValueError, match=r'pip install "lsa-lightning\[hub\]"'):
        push_to_hub(EXAMPLE, "somebody/moon")
