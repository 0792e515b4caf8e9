"""``lsa-demo`` without a browser, and without Gradio."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from lsa_lightning.cli.demo import main
from lsa_lightning.runs import installed

EXAMPLE = Path(__file__).parents[2] / "examples" / "moon"
CHECKPOINT = str(EXAMPLE / "checkpoints" / "best.ckpt")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_without_gradio_the_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    text = refusal(capsys, CHECKPOINT)
    assert text.startswith("lsa-demo: error: expected gradio to be installed")
    assert text.endswith('pip install "lsa-lightning[demo]"\n')


def test_no_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    assert "which does not exist" in refusal(capsys, str(tmp_path / "best.ckpt"))


def test_what_a_run_names_is_looked_at_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").write_bytes(Path(CHECKPOINT).read_bytes())
    config = (EXAMPLE / "config.yaml").read_text().replace("lsa_lightning.RobustClassifier", "os.system")
    (folder / "config.yaml").write_text(config)
    assert "expected a LightningModule, got 'os.system'" in refusal(capsys, str(folder / "checkpoints" / "best.ckpt"))


def test_the_page_is_served_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = pytest.importorskip("gradio")
    served = []

    def look(page: Any) -> None:
        with urlopen(page.local_url) as answer:
            served.append(answer.read().decode())
        page.close(verbose=False)

    monkeypatch.setattr(gradio.Blocks, "block_thread", look)
    main([CHECKPOINT])
    assert capsys.readouterr().out.startswith("Page: http://127.0.0.1:")
    assert "lsa-demo: moon_at_lr" in served[0]
