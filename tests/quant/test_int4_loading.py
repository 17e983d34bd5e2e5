"""Pins `quant="int4"` where a user meets it: load, the commands, the word for what is not there."""

from __future__ import annotations

import pytest
import torch

import llama4
from llama4.cli import main
from llama4.errors import InputError
from llama4.quant import count_weights
from llama4.quant.layers import Int4Experts


def test_load_quantises_and_answers_with_a_picture() -> None:
    llm, plain = llama4.load("tiny", device="cpu", quant="int4"), llama4.load("tiny", device="cpu")
    assert any(isinstance(module, Int4Experts) for module in llm.model.modules())
    assert count_weights(llm.model) == count_weights(plain.model) == sum(p.numel() for p in plain.model.parameters())
    assert not llm.model.training
    assert len(llm.run("What is this?", images=["docs/pictures/shapes.png"], max_new_tokens=3).ids) <= 3


def test_int4_in_another_dtype() -> None:
    model = llama4.load_model("tiny", device="cpu", dtype="float32", quant="int4")
    scales = [tensor for name, tensor in model.state_dict().items() if name.endswith("scale")]
    assert scales and {scale.dtype for scale in scales} == {torch.float32}


@pytest.mark.parametrize("quant", ["fp8", "int3", ""])
def test_another_quant_is_refused_by_name(quant: str) -> None:
    with pytest.raises(InputError, match=f"There is no quant '{quant}' here: leave it out, or use int4"):
        llama4.load("tiny", quant=quant)


def test_the_command_says_what_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hello", "--max-new-tokens", "2", "--quant", "int4", "--device", "cpu"]) == 0
    assert "linear layers in int4" in capsys.readouterr().err
