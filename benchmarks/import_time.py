"""What it costs to begin: ``import lsa_lightning``, and ``lsa-train --help``.

    python -m benchmarks.import_time [--pairs 10]

Fresh interpreters, by turns, after one of each that warms the disk: the import beside ``import lightning.pytorch``,
and the help beside ``import hydra, lightning.pytorch``. Prints and writes results/import_time.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from benchmarks.pairs import paired, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    pairs = parser.parse_args().pairs
    results = {
        "import": paired(python("import lsa_lightning"), python("import lightning.pytorch"), pairs),
        "help": paired(
            python("import sys; sys.argv[1:] = ['--help']; from lsa_lightning.cli.train import main; main()"),
            python("import hydra, lightning.pytorch"),
            pairs,
        ),
    }
    print(f"import lsa_lightning over import lightning.pytorch: {results['import']}")
    print(f"lsa-train --help over import hydra, lightning.pytorch: {results['help']}")
    save("import_time", results)


def python(code: str) -> Callable[[], object]:
    """A run of a fresh interpreter."""
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
