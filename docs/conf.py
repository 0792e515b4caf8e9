"""How Sphinx builds these pages; see "The documentation" in CONTRIBUTING.md."""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from scripts.docs_pages import write_all  # noqa: E402

from lsa_lightning import __version__  # noqa: E402

logger = logging.getLogger(__name__)

project = "lsa-lightning"
copyright = "the lsa-lightning authors"  # noqa: A001
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["results"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # what is stored in the notebooks is what tests/test_notebooks.py got
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"  # a signature with all types fills a screen
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
copybutton_exclude = ".linenos, .gp, .go, .c1"

html_theme = "furo"
html_title = "lsa-lightning"
html_show_sourcelink = False
html_math_renderer = "mathml"  # drawn by the browser itself: no page loads anything from elsewhere


LAYOUT = re.compile(r"\\(?:[bB]igg?[lrm]?|textstyle|displaystyle)(?![A-Za-z])")
"""Commands that say how large something is drawn, which MathML decides by itself."""


def mathml(node: nodes.Element, *, as_block: bool) -> str:
    """A formula as MathML; one that docutils does not understand is a warning."""
    try:
        return str(tex2mathml(LAYOUT.sub("", node.astext()), as_block=as_block))
    except MathError as error:
        logger.warning("expected a formula that docutils understands: %s", error, location=node)
        return f"<code>{escape(node.astext())}</code>"


def inline_math(translator: Any, node: nodes.math) -> None:
    """A formula in a line."""
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def displayed_math(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own."""
    # Hats and limits of sums reach out of the box that browsers give a formula: without a margin furo scrolls it.
    translator.body.append(f'<div style="padding: 0.4em 0">{mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Formulas as MathML, and the pages that are made from code and files."""
    app.add_html_math_renderer("mathml", (inline_math, None), (displayed_math, None))
    write_all()
