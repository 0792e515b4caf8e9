"""``lsa-demo``: a page to try out a checkpoint that ``lsa-train`` wrote, served on this machine alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lsa_lightning.demo import Subject
from lsa_lightning.runs.checkpoint import load_run
from lsa_lightning.runs.installed import require_installed
from lsa_lightning.runs.read import in_one_line
from lsa_lightning.runs.trust import Trust


def demo(checkpoint: str, trust: Trust) -> Any:
    """The page about a checkpoint, a ``gradio.Blocks``.

    Args:
        checkpoint: the file, with the run's configuration beside it or one folder above.
        trust: what that configuration may name besides what is known to be harmless.

    Raises:
        ValueError: if Gradio is missing, the checkpoint cannot be opened, or no page can be made for its inputs.
        OSError: if files are missing or may not be read.
    """
    require_installed("gradio.Blocks", "lsa-demo")
    from lsa_lightning.demo.page import build_page

    return build_page(Subject.of(load_run(checkpoint, trust=trust)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="lsa-demo",
        description="Serve a page, on this machine alone, on which one draws, uploads or clicks an input and sees its "
        "adversarial partner, the predictions, and how far the attack moves each layer.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="RUN/checkpoints/best.ckpt; RUN/config.yaml is read too")
    parser.add_argument("--port", type=int, help="default: a free one, from 7860 on")
    parser.add_argument(
        "--trust",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="a package whose code the run's configuration may name; all: any (repeatable)",
    )
    options = parser.parse_args(arguments)
    try:
        page = demo(options.checkpoint, Trust.of("all" if options.trust == ["all"] else options.trust))
        from lsa_lightning.demo.page import launch

        address = launch(page, options.port)
    except (ValueError, OSError) as error:
        parser.exit(2, f"lsa-demo: error: {in_one_line(error).removeprefix('lsa-demo: ')}\n")
    print(f"Page: {address} (Ctrl-C ends it)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
