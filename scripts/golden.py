"""Stores the weights that tests/test_golden.py expects anew, after a change of the method that is meant.

    python -m scripts.golden [--check]

Prints the digest of the stored weights and that of the weights which this tree gives; with ``--check`` nothing is
written, and the exit code is 1 if they differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.helpers.golden import GOLDEN, digest, store, stored_weights, trained_weights


def main() -> None:
    """Train, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    old = digest(stored_weights()) if GOLDEN.exists() else "none"
    with tempfile.TemporaryDirectory() as folder:
        weights = trained_weights(Path(folder))
    print(f"{GOLDEN.name}: stored {old}, now {digest(weights)}")
    if args.check:
        sys.exit(old != digest(weights))
    store(weights)


if __name__ == "__main__":
    main()
