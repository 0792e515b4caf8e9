"""An interpreter in which some installed packages are missing."""

from __future__ import annotations

import subprocess
import sys

HIDE = """
import sys

modules, projects, installed = set({modules!r}), set({projects!r}), sys.meta_path[:]


class Without:
    '''What all finders find, but for the packages that are hidden.'''

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in modules:
            return None
        return next((spec for finder in installed if (spec := finder.find_spec(name, path, target))), None)

    @staticmethod
    def find_distributions(context):
        finders = () if context.name in projects else (f for f in installed if hasattr(f, "find_distributions"))
        return (found for finder in finders for found in finder.find_distributions(context))


sys.meta_path[:] = [Without]
"""


def run_without(packages: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that has none of ``packages``, project by the module that it brings."""
    hide = HIDE.format(modules=list(packages), projects=list(packages.values()))
    return subprocess.run([sys.executable, "-c", hide + code], check=False, capture_output=True, text=True)
