"""Old keywords go on working, with a warning that names the new one."""

from __future__ import annotations

import inspect
import warnings

import pytest

from lsa_lightning.utils.renamed import renamed


@renamed(max_batches="limit_batches", queries="n_queries")
def run(limit_batches: int = 1, *, n_queries: int = 2) -> tuple[int, int]:
    """Give back what came in."""
    return limit_batches, n_queries


def test_new_names_and_positions_go_through_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (run(), run(5), run(limit_batches=5, n_queries=6)) == ((1, 2), (5, 2), (5, 6))


def test_an_old_name_is_the_new_one_and_warns_where_it_was_written() -> None:
    with pytest.warns(FutureWarning, match="^queries is now called n_queries$") as caught:
        assert run(3, queries=7) == (3, 7)  # type: ignore[call-arg]
    assert caught[0].filename == __file__


def test_both_names_are_refused() -> None:
    with pytest.raises(TypeError, match="expected limit_batches alone, its old name being max_batches, got both"):
        run(limit_batches=1, max_batches=2)  # type: ignore[call-arg]


def test_documentation_and_signature_are_the_functions_own() -> None:
    assert run.__doc__ == "Give back what came in."
    assert list(inspect.signature(run).parameters) == ["limit_batches", "n_queries"]
