"""Pins `llama4 eval` itself: the experts' counts against counting by hand, each tile encoded once, the file and the tables drawn
from it, what the command refuses. The model is the tests' small one, the data seven pictures of the package."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import cli_fixtures
import pytest
import torch
from cli_fixtures import one_sentence
from emoji_fixtures import write_dataset
from tiny_llm import picture, tiny_llm

from llama4.errors import InputError
from llama4.evaluation import experts, report, suites
from llama4.evaluation.asking import Question, answers, encoded_once
from llama4.evaluation.drawings import drawings
from llama4.evaluation.figure import drawable
from llama4.evaluation.routing import patch_experts
from llama4.evaluation.running import SUITES, Settings, chosen_suites, evaluate
from llama4.evaluation.style import OKABE_ITO, expert_colour, ink_on, mixed
from llama4.parity.routing import recorded, routers
from llama4.train.emoji.dataset import open_dataset

llama4_cli, hf, text_only = cli_fixtures.llama4_cli, cli_fixtures.hf, cli_fixtures.text_only
ALONE = ("names", "experts", "names,experts")
RESULT = {
    "date": "2025-04-05 12:00 UTC",
    "commit": "0123456789abcdef",
    "machine": {"processor": "a processor", "threads": 2},
    "versions": {"torch": "2.13.0"},
    "format": report.FORMAT,
    "model": {"name": "tiny", "parameters": 1234567, "files": {"config.json": "aa", "model.safetensors": "0f" * 32}},
    "settings": {"artist": "twemoji", "limit": None, "seed": 7, "dtype": "bfloat16"},
    "rows": report.rows_of("names", [("64 px", True)] * 3 + [("72 px", False)] + [("64 px", False)] * 2),
    "experts": [{"layer": 1, "tokens": "all", "n": 1200, "shares": [0.75, 0.25], "busiest": 1.5}],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("emoji"))


# experts


def test_experts_are_counted_as_a_plain_forward_routes_them() -> None:
    """Two prompts of unequal length, one token each: padding is not counted, the answer's token is not fed."""
    llm = tiny_llm()
    prompts = [llm.encode("Hello there", [picture()]), llm.encode("Hi")]
    with experts.tallied(llm.model) as tally:
        llm.generate_batch(prompts, max_new_tokens=1)
    patches = sum(prompt.ids.count(llm.config.patch_id) for prompt in prompts)
    words = sum(len(prompt.ids) for prompt in prompts) - patches
    expected = {layer: torch.zeros(llm.config.vocab_size, 3, dtype=torch.int64) for layer in range(4)}
    for prompt in prompts:
        taken: dict[int, torch.Tensor] = {}
        with recorded(routers(llm.model), taken), torch.no_grad():
            llm.model(torch.tensor([prompt.ids]), images=prompt.tiles)
        for layer, expert_N in taken.items():
            for token, expert in zip(prompt.ids, expert_N.tolist(), strict=True):
                expected[layer][token, expert] += 1
    assert patches > 0 and tally.counts.keys() == expected.keys()
    for layer, counts_VE in expected.items():
        assert torch.equal(tally.counts[layer], counts_VE), layer
        for kind, count in (("all", patches + words), ("patches", patches), ("words", words)):
            assert int(tally.load(layer, kind).sum()) == count
    assert torch.equal(tally.load(2, "patches"), expected[2][llm.config.patch_id])


def test_tokens_that_are_fed_back_are_counted_and_finished_rows_are_not() -> None:
    llm = tiny_llm()
    prompts = [llm.encode("Hello there"), llm.encode("Hi")]
    with experts.tallied(llm.model) as tally:
        said = [len(llm.run(prompt, max_new_tokens=5).ids) for prompt in prompts]
    alone = int(tally.load(0, "all").sum())
    with experts.tallied(llm.model) as together:
        llm.generate_batch(prompts, max_new_tokens=5)
    assert said == [5, 5] and alone == sum(len(prompt.ids) for prompt in prompts) + 2 * 4
    assert all(torch.equal(together.counts[layer], tally.counts[layer]) for layer in tally.counts)


def test_loads_and_favourites_of_known_counts() -> None:
    tally = experts.Tally(tiny_llm().model)
    counts_VE = tally.counts[0]
    counts_VE[tally.patch_id] = torch.tensor([6, 0, 0])
    counts_VE[65], counts_VE[66], counts_VE[67] = (
        torch.tensor([0, 3, 1]),
        torch.tensor([0, 9, 0]),
        torch.tensor([1, 0, 1]),
    )
    rows = {row["tokens"]: row for row in experts.loads(tally) if row["layer"] == 0}
    assert rows["all"]["n"] == 21 and rows["all"]["shares"] == pytest.approx([7 / 21, 12 / 21, 2 / 21])
    assert rows["all"]["busiest"] == pytest.approx(12 / 7)
    assert rows["patches"] == {"layer": 0, "tokens": "patches", "n": 6, "shares": [1.0, 0.0, 0.0], "busiest": 3.0}
    assert rows["words"]["shares"] == pytest.approx([1 / 15, 12 / 15, 2 / 15])
    assert not [row for row in experts.loads(tally) if row["layer"] == 1]
    assert experts.favourites(tally, 0) == [[], [66, 65], []]  # 67 is nobody's, the patch no word


def test_the_grid_of_experts_is_the_patches_own() -> None:
    llm = tiny_llm()
    shown = picture(28, 28, seed=9)
    prompt = llm.encode("What is this?", [shown])
    with experts.tallied(llm.model) as tally:
        llm.generate_batch([prompt], max_new_tokens=1)
    grids = patch_experts(llm, shown)
    assert {layer: tuple(grid.shape) for layer, grid in grids.items()} == dict.fromkeys(range(4), (2, 2))
    taken: dict[int, torch.Tensor] = {}
    with recorded(routers(llm.model), taken), torch.no_grad():
        llm.model(torch.tensor([prompt.ids]), images=prompt.tiles)
    first = prompt.ids.index(llm.config.patch_id)
    for layer, grid in grids.items():
        assert torch.equal(torch.bincount(grid.flatten(), minlength=3), tally.load(layer, "patches"))
        assert grid.tolist() == [taken[layer][first + 2 * y : first + 2 * y + 2].tolist() for y in range(2)]
    assert any(not torch.equal(grid, grid.T) for grid in grids.values())  # else rows and columns could be exchanged


def test_experts_of_several_tiles_lie_where_their_patches_do() -> None:
    """2 x 2 tiles of 2 x 2 patch tokens: row 1, column 2 of the picture is the third patch of the second tile."""
    llm = tiny_llm()
    side = 2 * llm.config.vision.tile_side
    shown = picture(side, side, seed=5)
    grids = patch_experts(llm, shown, tiles_a_side=2)
    prompt = llm.encode("What is this?", [shown])
    taken: dict[int, torch.Tensor] = {}
    with recorded(routers(llm.model), taken), torch.no_grad():
        llm.model(torch.tensor([prompt.ids]), images=prompt.tiles)
    places = [place for place, token in enumerate(prompt.ids) if token == llm.config.patch_id]
    assert len(places) == 5 * 4
    for layer, grid in grids.items():
        for y, x in itertools.product(range(4), range(4)):
            patch = 4 * (y // 2 * 2 + x // 2) + (y % 2 * 2 + x % 2)
            assert grid[y, x] == taken[layer][places[patch]], (layer, y, x)
    assert any(not torch.equal(grid, grid.T) for grid in grids.values())


def test_watching_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = tiny_llm()
    encoder, hooks = llm.model.vision, len(llm.model._forward_hooks)
    plain = llm.generate_batch(["What is this?"] * 3, [[picture()], [picture(seed=1)], [picture()]], max_new_tokens=4)
    tiles: list[int] = []
    encode = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda x: tiles.append(len(x)) or encode(x))
    with experts.tallied(llm.model), encoded_once(llm.model):
        for _ in range(2):
            again = llm.generate_batch(
                ["What is this?"] * 3, [[picture()], [picture(seed=1)], [picture()]], max_new_tokens=4
            )
            assert again == plain
    each = len(llm.encode("", [picture()]).tiles)
    assert tiles == [2 * each]  # three pictures of which two are one, asked twice
    assert llm.model.vision is encoder and len(llm.model._forward_hooks) == hooks
    assert all(not router._forward_hooks for router in routers(llm.model).values())


# the whole, on a real (drawn) model


def test_every_suite_runs_and_counts_right(data: Path) -> None:
    dataset = open_dataset(data)
    rows, loads, tally = evaluate(tiny_llm(max_context=4096), dataset, Settings("twemoji", SUITES, limit=2))
    suites_seen = list(dict.fromkeys(row["suite"] for row in rows))
    assert suites_seen == [suite for suite in SUITES if suite != "experts"]
    assert {row["n"] for row in rows if row["row"] != "all of them"} == {2}
    assert [row["target"] for row in rows if row["suite"] == "trained"] == [0.92, None]
    assert [row["row"] for row in rows if row["suite"] == "names"] == [f"{size} px" for size in suites.SIZES]
    assert {(row["layer"], row["tokens"]) for row in loads} == {(n, k) for n in range(4) for k in experts.KINDS}
    assert tally is not None


def test_names_and_experts_are_one_pass(data: Path) -> None:
    """Each alone gives what both give together; `names` alone has the counts for a figure."""
    dataset, llm = open_dataset(data), tiny_llm(max_context=4096)
    results = {chosen: evaluate(llm, dataset, Settings("twemoji", chosen.split(","), 1)) for chosen in ALONE}
    rows, loads, tally = results["names,experts"]
    assert rows == results["names"][0] and not results["names"][1] and not results["experts"][0]
    assert loads == results["experts"][1] == experts.loads(results["names"][2]) == experts.loads(tally)


def test_answers_of_the_evaluation_are_those_of_generate(data: Path) -> None:
    llm, drawn = tiny_llm(), drawings(open_dataset(data), "twemoji")
    asked = [question for question in suites.names(drawn, 3) if question.row in ("64 px", "72 px")]
    with encoded_once(llm.model):
        batched = [said for _, said in answers(llm, asked, len(asked), "names", max_new_tokens=6)]
    alone = [llm.generate([{"role": "user", "content": q.content}], max_new_tokens=6) for q in asked]
    assert batched == alone


def test_the_command_writes_file_table_and_figure(llama4_cli: Callable, hf: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, page, figure = tmp_path / "r" / "eval.json", tmp_path / "card.md", tmp_path / "experts.png"
    page.write_text("# Card\n\n<!-- eval -->\nold\n<!-- end -->\n\nEnd.\n", encoding="utf-8")
    where = ["--model", hf, "--data", data, "--limit", 1, "--suite", "pair,experts"]
    ended = llama4_cli("eval", *where, "--json", file, "--table", page, "--figure", figure)
    assert ended.code == 0, ended.err
    result = report.read(file)
    assert [row["suite"] for row in result["rows"]] == ["pair"] and result["settings"]["suites"] == ["pair", "experts"]
    assert set(result["model"]["files"]) == {"config.json", "model.safetensors", "tokenizer.model"}
    assert result["model"]["parameters"] == sum(weight.numel() for weight in tiny_llm().model.parameters())
    assert str(tmp_path) not in file.read_text(encoding="utf-8")
    assert ended.out == report.table(result) + "\n"
    assert (
        page.read_text(encoding="utf-8") == f"# Card\n\n<!-- eval -->\n{report.table(result)}\n<!-- end -->\n\nEnd.\n"
    )
    assert figure.read_bytes().startswith(b"\x89PNG") and not list(tmp_path.glob(".*part"))
    again = llama4_cli("eval", "--render", file, "--json", "-")
    assert again.code == 0 and json.loads(again.out) == result
    drawn = llama4_cli("eval", "--render", file, "--table", tmp_path / "new.md")
    assert (tmp_path / "new.md").read_text(encoding="utf-8") == drawn.out == ended.out


def test_the_table_shows_shares_intervals_and_what_was_missed() -> None:
    drawn = report.table(RESULT)
    assert "tiny (1,234,567 parameters" in drawn and "commit 0123456789ab:" in drawn and "0f0f0f0f0f0f…" in drawn
    assert "| English name, exact, by size | 64 px | 5 | 60.0% | 23.1% to 88.2% | ≥ 60% met |" in drawn
    assert "| English name, exact, by size | 72 px | 1 | 0.0% | 0.0% to 79.3% | ≥ 60% MISSED |" in drawn
    assert "| 1 | all | 1,200 | 75% 25% | 1.50 (≤ 2.5 met) |" in drawn
    assert RESULT["rows"][0] | {"low": 0, "high": 0} == {
        **{"suite": "names", "row": "64 px", "n": 5, "hits": 3, "share": 0.6, "low": 0, "high": 0, "target": 0.6}
    }
    worse = RESULT | {"experts": [RESULT["experts"][0] | {"busiest": 2.51}]}
    assert "2.51 (≤ 2.5 MISSED)" in report.table(worse)


def test_the_file_round_trips(tmp_path: Path) -> None:
    report.write(report.text(RESULT), tmp_path / "eval.json")
    assert report.read(tmp_path / "eval.json") == json.loads(json.dumps(RESULT))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "llama4-bench-1"}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "eval.json").write_text(text)
    with pytest.raises(InputError, match=r"run `llama4 eval --json` again\.$"):
        report.read(tmp_path / "eval.json")


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")
    with pytest.raises(InputError, match="has no lines <!-- eval --> and <!-- end -->"):
        report.put_table(RESULT, page)
    assert page.read_text() == "# Mine\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "smell"], "There is no suite 'smell': choose all, or among names,"),
        (["--limit", "0"], "--limit is 0: ask at least 1 question a row"),
        (["--artist", "apple"], "There is no artist 'apple' in the data: choose among noto, twemoji."),
        (["--suite", "pair", "--figure", "x.png"], "--figure shows the experts"),
        (["--data", "nowhere"], "run `python -m llama4.train.emoji --into nowhere`"),
        (["--model", "nowhere"], "There is no checkpoint at nowhere"),
        (["--render", "nowhere.json"], "nowhere.json cannot be read as an evaluation's JSON"),
        (["--suite", "experts", "--limit", "1", "--figure", "x.what"], "call it something.png"),
    ],
)
def test_bad_input_is_one_sentence(
    llama4_cli: Callable,
    hf: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = llama4_cli("eval", "--model", hf, "--data", data, *arguments)
    assert ended.code == 2 and said in ended.err and not ended.out and not list(tmp_path.iterdir())
    assert one_sentence(ended.err), ended.err


def test_a_model_without_vision_is_refused(llama4_cli: Callable, text_only: Path, data: Path) -> None:
    ended = llama4_cli("eval", "--model", text_only, "--data", data, "--limit", 1)
    assert ended.code == 2 and "has no vision encoder" in ended.err and one_sentence(ended.err)


def test_data_without_trained_artists_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, ["twemoji"]))
    with pytest.raises(InputError, match="no artist that was trained on: build them, or leave out the suite `trained`"):
        evaluate(tiny_llm(), dataset, Settings("twemoji", ("names", "trained")))


def test_all_artists_that_the_shipped_model_has_learnt_from_are_asked_for_together(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, ["twemoji", "noto", "blob", "streamline"]))
    rows, _, _ = evaluate(tiny_llm(max_context=4096), dataset, Settings("twemoji", ("trained",), limit=1))
    assert [row["row"] for row in rows] == ["all of them", "noto", "blob", "streamline"]
    assert [row["target"] for row in rows] == [0.92, None, None, None] and rows[0]["n"] == 3


def test_suites_are_chosen_once_and_in_order() -> None:
    assert chosen_suites("all") == SUITES and chosen_suites("swap,names,swap") == ("names", "swap")


def test_the_help_names_every_suite(llama4_cli: Callable) -> None:
    shown = re.sub(r"\s+", " ", llama4_cli("eval", "--help").out)
    assert all(suite in shown for suite in SUITES)


# colours


def test_colours_are_the_colour_blind_safe_eight_then_paler() -> None:
    colours = [expert_colour(expert) for expert in range(16)]
    assert colours[:8] == list(OKABE_ITO) and len(set(colours)) == 16
    assert mixed("#000000", 0.5) == "#808080" and mixed("#0072B2", 0) == "#0072b2" and colours[15] == "#808080"
    assert ink_on("#000000") == "#ffffff" and ink_on("#F0E442") == "#000000"


def test_text_that_the_font_lacks_is_not_drawn() -> None:
    pytest.importorskip("matplotlib")
    assert drawable("Qu’est-ce, собака, mặt cún ✓") == "Qu’est-ce, собака, mặt cún ✓"
    assert drawable("a犬\n") == "a??"


def test_a_question_counts_for_its_row() -> None:
    question = Question("row", [], "x", lambda said: said == "x")
    assert question.right("x") and not question.right("y")
