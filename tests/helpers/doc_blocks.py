"""The code of README.md and docs/, block by block."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

ELSEWHERE = {"docs/own_data_and_model.md": "tests/cli/test_own_data_and_model.py"}
"""Pages of which each block is run by a test of their own."""

BLOCK = re.compile(r"(?:^`(?P<file>\S+)`\n\n)?^```(?P<language>\S*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: path of its page in the repository.
        file: the name that stands above it, where it is the content of a file; or "".
        language: what the fence says.
        code: what is inside.
    """

    page: str
    file: str
    language: str
    code: str


def pages() -> list[str]:
    """README.md and all pages in docs/ that were written by hand, but for those that are tested elsewhere."""
    found = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [name for name in names if not name.startswith("docs/generated/") and name not in ELSEWHERE]


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(page, found["file"] or "", found["language"], found["code"]) for found in BLOCK.finditer(text)]


def commands() -> list[str]:
    """Each command of a bash block once, without its comment; what ``&&`` joins are two."""
    lines = [line for page in pages() for block in blocks(page) if block.language == "bash" for line in _lines(block)]
    return list(dict.fromkeys(lines))


def _lines(block: Block) -> list[str]:
    lines = [re.sub(r"(^|\s+)# .*", "", line) for line in block.code.replace("\\\n", "").splitlines()]
    parts = [part for line in lines for part in re.split(r" && |; ", line)]
    return [shlex.join(words) for part in parts if (words := shlex.split(part))]
