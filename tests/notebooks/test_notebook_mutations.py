"""Breaking the library turns a chapter red: every mistake of notebook_mutations.py fails an assert of the chapter it names."""

from __future__ import annotations

import notebook_mutations
import pytest
from mutation_list import Edit, Mutation


@pytest.mark.parametrize("mutation", notebook_mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_chapter_turns_red(mutation: Mutation) -> None:
    assert notebook_mutations.caught_by(mutation)


def test_a_harmless_change_survives() -> None:
    """The runner itself can say no: a comment is no mistake."""
    edit = Edit("rope.py", "    freqs = 1.0 / theta", "    # a comment\n    freqs = 1.0 / theta")
    with pytest.raises(notebook_mutations.SurvivedError, match="is green with this mistake"):
        notebook_mutations.caught_by(Mutation("a comment", "00-tour", (edit,)))
