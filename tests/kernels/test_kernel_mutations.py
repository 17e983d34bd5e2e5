"""Every deliberate mistake in a kernel is caught by the test that the kernels' pages name; and without one that test passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_machine import CUDA
from kernel_mutations import MUTATIONS, Mutation, caught

pytestmark = pytest.mark.skipif(
    CUDA, reason="the mistakes are made in the interpreter: on a GPU a wrong address may end the process"
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_mistake_is_caught(mutation: Mutation) -> None:
    assert caught(mutation)


@pytest.mark.parametrize("test", sorted({(m.module, m.test) for m in MUTATIONS}), ids=str)
def test_without_a_mistake_the_test_passes(test: tuple[str, str]) -> None:
    module, expression = test
    assert not caught(replace(MUTATIONS[0], new=MUTATIONS[0].old, module=module, test=expression))
