"""Trained models on the Hugging Face Hub: weights, configuration, profiles of the layers, and the page about a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.models import RobustClassifier
from lsa_lightning.pages.report import write_report
from lsa_lightning.runs.checkpoint import load_run
from lsa_lightning.runs.folder import CONFIG_FILE
from lsa_lightning.runs.installed import require_installed
from lsa_lightning.runs.portable import WEIGHTS_FILE, share
from lsa_lightning.runs.read import Run, read_run
from lsa_lightning.runs.trust import NOBODY, Trust
from lsa_lightning.utils.files import write_text

CARD_FILE = "README.md"


def push_to_hub(
    run_folder: str | Path, repo_id: str, *, private: bool | None = None, revision: str | None = None
) -> str:
    """Upload a finished run, as :func:`~lsa_lightning.runs.portable.share` prepares it, with its page and a card.

    What ``config.yaml`` says apart from loggers and folders is published with it. You are known to the Hub by
    ``hf auth login``, or by ``HF_TOKEN``.

    Args:
        run_folder: run folder of ``lsa-train``.
        repo_id: ``user/name``; made if it is not there.
        private: whether a new repository is for you alone; None: as your organisation has it.
        revision: branch to upload to; None: the main one.

    Returns:
        The address of the upload.

    Raises:
        ValueError: if ``huggingface_hub`` is missing, the run has not finished, or has no checkpoint.
        OSError: if a file is missing.
    """
    require_installed("huggingface_hub.HfApi", "push_to_hub")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = share(Path(run_folder), Path(temporary))
        write_report([folder])
        write_text(folder / CARD_FILE, model_card(read_run(folder), repo_id))
        api = HfApi(library_name="lsa-lightning")
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message="Upload a run of lsa-train"
        )
    return str(commit)


def from_pretrained(repo_id: str, *, revision: str | None = None, trust: Trust = NOBODY) -> RobustClassifier:
    """The model of a run that :func:`push_to_hub` uploaded, in eval mode, on the CPU.

    No code of the repository is run: the configuration may name what
    :class:`~lsa_lightning.runs.trust.Trust` allows, and the checkpoint is read as weights only.

    Args:
        repo_id: ``user/name``, or a folder on this machine, such as ``examples/moon``.
        revision: branch, tag or commit; None: the main branch.
        trust: what the configuration may name besides what is known to be harmless.

    Raises:
        ValueError: if ``huggingface_hub`` is missing, or what was downloaded is refused or no such run.

    Example:
        >>> type(from_pretrained("examples/moon").backbone).__name__
        'MLP'
    """
    folder = Path(repo_id) if Path(repo_id).is_dir() else _downloaded(repo_id, revision)
    model = load_run(str(folder / WEIGHTS_FILE), trust=trust).model
    if not isinstance(model, RobustClassifier):
        msg = f"expected {repo_id} to hold a RobustClassifier, got {type(model).__name__}: open it with load_run"
        raise ValueError(msg)
    return model.cpu().eval()


def model_card(run: Run, repo_id: str) -> str:
    """The text that the Hub shows about a run: what was trained, its accuracies, and how to open it."""
    trained = "\n".join(f"| {what} | `{value}` |" for what, value in run.summary.trained.items())
    accuracies = "" if run.summary.evaluation is None else _accuracies(run.summary.evaluation)
    return f"""---
library_name: lsa-lightning
tags: [adversarial-robustness, lightning]
---
# {run.name}

Trained with lsa-lightning (arXiv 2202.02626). `report.html` is the page about the run.

| | |
|---|---|
{trained}

{accuracies}
```python
from lsa_lightning.hub import from_pretrained

model = from_pretrained("{repo_id}")
```
"""


def _accuracies(table: RobustnessTable) -> str:
    """A table in Markdown."""
    rows = {"": [f"eps {eps:g}" for eps in table.eps], "---": ["---"] * len(table.eps)}
    rows |= {name: [f"{each:.1f}" for each in row] for name, row in table.accuracy.items()}
    lines = (f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())
    what = f"Accuracy in percent on {table.samples} test samples, norm {table.norm or 'not known'}:"
    return "\n".join([what, "", *lines, ""])


def _downloaded(repo_id: str, revision: str | None) -> Path:
    require_installed("huggingface_hub.snapshot_download", "from_pretrained")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
