"""Every mutation of tests/mutations.py is caught by the test it names, and no named test is red without one."""

from __future__ import annotations

from pathlib import Path

import mutations
import pytest
from mutation_list import Edit, Mutation


def test_the_named_tests_pass_on_the_unbroken_code() -> None:
    assert mutations.green_without_mutation() is None


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_caught(mutation: mutations.Mutation) -> None:
    assert mutations.caught_at(mutation) >= mutations.MUTATION_FACTOR


def test_an_imported_copy_is_the_copy_and_afterwards_the_package_is_back(tmp_path: Path) -> None:
    import llama4.rope as before

    mutations.make_copy(tmp_path)
    mutations.apply(
        Mutation("a line", "", (Edit("rope.py", "    freqs = 1.0 / theta", "    freqs = 2.0 / theta"),)), tmp_path
    )
    with mutations.imported(tmp_path):
        import llama4.rope as copied

        assert Path(copied.__file__).is_relative_to(tmp_path)
        assert copied.frequencies(8, 100.0, None, "cpu").equal(2 * before.frequencies(8, 100.0, None, "cpu"))
    import llama4.rope as after

    assert after is before


def test_text_that_is_not_there_once_is_an_error(tmp_path: Path) -> None:
    mutations.make_copy(tmp_path)
    for gone in ("this text is nowhere", "import"):
        stale = Mutation("stale", "test_goldens.py", (Edit("rope.py", gone, ""),))
        with pytest.raises(mutations.StaleMutationError, match="not once"):
            mutations.apply(stale, tmp_path)


def test_a_harmless_change_survives() -> None:
    """The runner itself can say no: a comment is no mistake."""
    harmless = Mutation(
        "a comment",
        "test_goldens.py::test_logits[hf-guard]",
        (Edit("rope.py", "    freqs = 1.0 / theta", "    # a comment\n    freqs = 1.0 / theta"),),
    )
    with pytest.raises(mutations.SurvivedError, match="passes with this mistake"):
        mutations.caught_at(harmless)


def test_the_documentation_lists_every_mutation_and_its_test() -> None:
    rows = (mutations.ROOT / "docs" / "parity.md").read_text(encoding="utf-8").splitlines()
    for mutation in mutations.MUTATIONS:
        test = mutation.test.removeprefix("test_goldens.py::test_")
        assert any(row.startswith(f"| {mutation.name} | `{test}` |") for row in rows), mutation.name
