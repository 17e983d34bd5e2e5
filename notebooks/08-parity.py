# %% [markdown]
# # 08 · The whole model, and parity
#
# *Every part at once, and how we know that its numbers are right: two reference programs, a ladder of comparisons from
# one operation to the whole, and 28 mistakes made on purpose.*
#
# Chapters 01 to 07 took the model apart. Here it runs as a whole, and every station prints the shape of what leaves it. In
# the text model that is `[B, S, D]`: conversations (one), tokens, width. In the vision encoder's layers it is `[R, P, C]`:
# tiles (one), patches with the class token, width; behind its adapter, tokens stand for patches. In this model `C` and `D`
# are the same number. In the last line `V`, the vocabulary, stands for `D`.

# %%
import json
import sys
import tempfile
import warnings
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from figures import BLUE, GREEN, ORANGE, RED, figure, logarithmic, matrix, show
from safetensors.torch import load_file

import llama4
from llama4 import parity
from llama4.demo.pictures import FOLDER, shown

torch.set_grad_enabled(False)
warnings.filterwarnings("ignore", message="IProgress not found")  # transformers would like a progress bar
torch.set_num_threads(1)  # tiny models: a second thread would mostly wait
llm = llama4.load("tiny", dtype="float32")
prompt = llm.encode("What is this?", images=[shown("dog-face").picture])
tokens_BS = torch.tensor([prompt.ids])

# %%
stations = ["decoder.embedding", "vision.layers.0", "vision.adapter", "vision", "fusion", "decoder.layers.0.attention"]
stations += ["decoder.layers.0.ffn", *(f"decoder.layers.{n}" for n in range(4)), "decoder.norm"]
for name in stations:
    llm.model.get_submodule(name).register_forward_hook(
        lambda module, args, out, name=name: print(f"{name:<28}{type(module).__name__:<16}{list(out.shape)}")
    )
print(f"{'in: tokens, tiles':<44}{list(tokens_BS.shape)}, {list(prompt.tiles.shape)}")
logits_BSV = llm.model(tokens_BS, images=prompt.tiles)
print(f"{'out: logits':<44}{list(logits_BSV.shape)}")
assert logits_BSV.shape == (1, len(prompt.ids), llm.config.vocab_size)

# %% [markdown]
# The output has the right shape. That says little. Chapter 04 reordered the rows of queries and keys in every layer: all
# shapes were right, nothing crashed, and the answers were worse. So the question is: are these the numbers that Llama 4
# *means*?
#
# Two programs define them, the **references**: Meta's `llama-models` and Hugging Face's `transformers`. "Right" means: on
# the same weights and the same input, our logits are theirs.
#
# ## The same, to rounding
#
# Bit for bit would be too much to ask. A float32 number has 24 bits, a relative step of 6e-8, and every sum rounds. The
# same sum in another order rounds elsewhere:

# %%
left, right = (torch.randn(5120, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
terms = left * right
forwards = backwards = torch.zeros(())
for first, last in zip(terms, terms.flip(0), strict=True):
    forwards, backwards = forwards + first, backwards + last
print(f"forwards {forwards:.6f}   backwards {backwards:.6f}   in float64 {terms.double().sum():.6f}")
assert 0 < abs(forwards - backwards) < 1e-2
assert torch.finfo(torch.float32).eps / 2 < 6e-8

# %% [markdown]
# This is a dot product as wide as Scout, and its last digits depend on the order. Neither order is wrong. What we ask for
# is therefore a **limit**, a tight one, and the same in all float32 tests:
#
# $$\max|\text{ours} - \text{reference}| \;\le\; 10^{-5} \cdot \max(1, \max|\text{reference}|)$$
#
# A mistake is larger, by far. That is what the rest of the chapter shows.
#
# ## Stored results
#
# The references are large packages, so their results are also stored in the repository: five tiny checkpoints with weights
# drawn at random, and what a reference computed on each. Two are of Scout's kind, two of Maverick's. One is of the kind of
# Llama Guard 4, a safety classifier of Meta's with the same architecture, but dense and without chunks. Three come from
# transformers and two from Meta's code, in their own file formats. The command `llama4 parity` compares, and
# `parity.compare` is the function behind it:

# %%
GOLDENS = Path("../tests/parity/goldens")
CASES = ("hf-scout", "hf-maverick", "hf-guard", "meta-scout", "meta-maverick")
reports = {case: parity.compare(GOLDENS / case, GOLDENS / f"{case}.safetensors") for case in CASES}
print(parity.render(reports["meta-scout"]))

assert all(report.passed for report in reports.values())
assert {report.reference.split()[0] for report in reports.values()} == {"transformers", "llama-models"}
assert all(not stage.rerouted for report in reports.values() for stage in report.stages)

# %% [markdown]
# Read it from the top. `embedding` is what enters the decoder, the encoded picture in place. Then comes what leaves each
# layer, then the logits. `max abs` is the largest difference and `worst at` its place; `bound` is the limit of the formula
# above. `relative RMS` is the root mean square of the differences over that of the reference's numbers: it grows a little
# from layer to layer, as roundings add up. `rerouted` counts tokens that went to another expert than the reference's: none.
#
# The order matters when something fails. The **first** line over its bound holds the mistake; those after it inherit it.
#
# ## The references, here and now
#
# Stored results could be stale. Where both references are installed (they are among the test dependencies), this
# chapter runs them too.

# %%
INSTALLED = all(find_spec(name) for name in ("transformers", "llama_models", "fairscale", "pytest"))
if INSTALLED:
    print("transformers and llama-models are installed: they run below.")
else:
    print("transformers or llama-models is not installed, so what follows uses their stored results alone.")
    print('To run them as well: pip install -e ".[test]"')

# %% [markdown]
# First the default model itself. transformers reads the package's own files, and gets the same question about the dog as
# our model.

# %%
from llama4.load import TINY
from llama4.parity.recording import load_transformers

llm = llama4.load("tiny", dtype="float32")  # anew, without the hooks
logits_BSV = llm.model(tokens_BS, images=prompt.tiles)
errors = []  # (rung, reference, relative error)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, over max(1, the reference's largest number): 1e-5 is the limit."""
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


if INSTALLED:
    theirs = load_transformers(TINY, torch.float32)
    logits_theirs = theirs(input_ids=tokens_BS, pixel_values=prompt.tiles, use_cache=False).logits
    errors.append(("default model", "transformers", relative(logits_BSV, logits_theirs)))
    said = [llm.tokenizer.decode([logits[0, -1].argmax().item()]) for logits in (logits_BSV, logits_theirs)]
    print(f"largest relative difference {errors[-1][2]:.1e}, limit 1e-5; the two answers begin with {said}")
    assert errors[-1][2] <= 1e-5 and said[0] == said[1]

# %% [markdown]
# ## The ladder
#
# One whole model that agrees is a good sign. It does not tell *why* when it stops agreeing, and one configuration hides
# mistakes: with a chunk that divides the prompt, or as many key heads as query heads, whole classes of errors cannot show.
# So the tests climb a ladder, and draw the models at random on every rung. This chapter's share of it:
#
# | rung | what is compared | its input |
# |---|---|---|
# | op | a norm | random numbers |
# | module | attention; feed-forward, dense or mixture | random numbers |
# | block | a whole layer | random numbers |
# | whole model | logits; text, and text with pictures | tokens, tiles |
#
# The models have odd head counts, one to eight experts, irregular layers, chunks that do not divide the prompt. All weights
# are drawn *large*, norms and biases included. A norm weight of 1 would hide a norm weight that is forgotten.
#
# `drawn_configs` and `pairs` are helpers of the tests. A **pair** is one drawn model twice, in our code and in a
# reference's, with the same weights. The first function below runs the parts of one of the reference's layers, the second
# the same parts of ours, and then the whole; the third cell does that for twelve drawn models of each reference.

# %%
sys.path += ["../tests", "../tests/parity"]


def reference_parts(pair, x_BSD: torch.Tensor, number: int) -> tuple[torch.Tensor, ...]:
    """What the reference's norm, attention, feed-forward and whole layer make of `x_BSD`."""
    if hasattr(pair, "text"):  # transformers
        layer, inputs = pair.text.layers[number], pairs.hf_inputs(pair, x_BSD, number)
        fed = layer.feed_forward(x_BSD)
        fed_BSD = fed if torch.is_tensor(fed) else fed[0].view_as(x_BSD)  # a mixture gives its routing too
        return layer.input_layernorm(x_BSD), layer.self_attn(x_BSD, **inputs)[0], fed_BSD, layer(x_BSD, **inputs)
    layer, masks = pair.reference.layers[number], pairs.meta_inputs(pair, x_BSD.shape[1])
    attended_BSD = layer.attention(x_BSD, 0, masks[0], masks[1 if layer.is_nope_layer else 2])
    return layer.attention_norm(x_BSD), attended_BSD, layer.feed_forward(x_BSD), layer(x_BSD, 0, *masks)


# %%
RUNGS = ("op: norm", "module: attention", "module: feed-forward", "block")


def climb_pair(pair, seed: int):
    """(rung, relative error), from one norm to the logits of a prompt with two tiles."""
    x_BSD = torch.randn(2, 23, pair.config.width, generator=torch.Generator().manual_seed(seed))
    for number, layer in enumerate(pair.ours.decoder.layers):
        step = pairs.step_of(x_BSD)
        parts = layer.attention_norm(x_BSD), layer.attention(x_BSD, step, None), layer.ffn(x_BSD)
        parts += (layer(x_BSD, step, None),)
        for rung, ours, theirs in zip(RUNGS, parts, reference_parts(pair, x_BSD, number), strict=True):
            yield rung, relative(ours, theirs)
    vocabulary = min(pair.config.vocab_size - 3, 2000)
    prompt_BS = drawn_configs.prompt(seed, vocabulary, pair.config.chunk)
    yield "whole model: text", relative(pair.run_ours(prompt_BS), pair.run_reference(prompt_BS))
    seen = pairs.tiled_prompt(pair, prompt_BS, (2,), seed)
    yield "whole model: pictures", relative(pair.run_ours(*seen), pair.run_reference(*seen))


# %%
if INSTALLED:
    import contextlib
    import io

    import drawn_configs
    import pairs

    for seed in range(12):
        args = drawn_configs.meta(seed)
        args["attention_chunk_size"] = args["attention_chunk_size"] or 7  # Meta's mask needs a number
        with contextlib.redirect_stdout(io.StringIO()):  # fairscale announces itself
            drawn = {"transformers": pairs.hf_pair(drawn_configs.hf_multimodal(seed), seed)}
            drawn["llama-models"] = pairs.meta_pair(args, seed)
        for reference, pair in drawn.items():
            errors += [(rung, reference, error) for rung, error in climb_pair(pair, seed)]
    print(f"{len(errors)} comparisons, the largest relative error {max(error for *_, error in errors):.1e}")

for report in reports.values():
    errors += [("whole model: stored", report.reference.split()[0], 1e-5 * s.max_abs / s.bound) for s in report.stages]
assert max(error for *_, error in errors) <= 1e-5

# %% [markdown]
# ## Mistakes on purpose
#
# A comparison that cannot fail proves nothing. So the repository has a list of mistakes, the ones that real
# implementations of Llama 4 have made and those that its architecture invites. Each is a few words of the package,
# replaced in a copy of it. With each stands the test that must then fail, and the stored model that this test uses. For
# example:

# %%
from mutation_list import MUTATIONS
from mutations import apply, imported, make_copy

example = next(mutation for mutation in MUTATIONS if mutation.name.startswith("gate and up swapped in"))
print(example.name, "\n")
for edit in example.edits:
    print(f"{edit.file}\n  - {edit.old}\n  + {edit.new}")
print(f"\n{len(MUTATIONS)} mistakes")
assert len(MUTATIONS) == 28

# %% [markdown]
# We make each of them, import the broken copy and climb with it, on the stored model that is named. The rungs are now the
# stages of `llama4 parity`, and then the same tokens fed in two more ways that must give the same logits. **Token by
# token** on a cache, across the ends of chunks; and in a **batch of unequal rows**, padded, each then going on from its
# own length.


# %%
def fed_otherwise(model, golden: dict, cuts: list[int]) -> dict[str, float]:
    """Error over limit of the stored tokens fed in pieces, and as rows of unequal length."""
    tokens_BS, images, wanted_BSV = golden["tokens_BS"], golden.get("images"), golden["logits_BSV"]
    cache, logits = model.new_cache(3, tokens_BS.shape[1]), []
    for first, last in pairwise(cuts):
        logits.append(model(tokens_BS[:, first:last], images=None if first else images, cache=cache))
    found = {"token by token": relative(torch.cat(logits, dim=1), wanted_BSV) / 1e-5}
    counts = [min(count, tokens_BS.shape[1] - 4) for count in (9, 33, 14)]
    cache, worst = model.new_cache(3, tokens_BS.shape[1]), 0.0
    padded_BSV = model(tokens_BS[:, : max(counts)], images=images, cache=cache, lengths_B=torch.tensor(counts))
    for row, count in enumerate(counts):
        worst = max(worst, relative(padded_BSV[row, :count], wanted_BSV[row, :count]))
    for more in range(4):
        places = torch.tensor(counts) + more
        logits_BV = model(tokens_BS[range(3), places][:, None], cache=cache)[:, 0]
        worst = max(worst, relative(logits_BV, wanted_BSV[range(3), places]))
    return found | {"unequal rows": worst / 1e-5}


# %%
def climb(case: str) -> dict[str, float]:
    """Error over limit on every rung, of whatever package `llama4` means when this is called."""
    report = import_module("llama4.parity").compare(GOLDENS / case, GOLDENS / f"{case}.safetensors")
    model = import_module("llama4.checkpoint").load_model(GOLDENS / case, dtype=torch.float32)
    golden = load_file(GOLDENS / f"{case}.safetensors")
    first = 23 if "images" in golden else 4  # with all tiles; then a piece, then token by token
    cuts = [0, first, *range(first + 5, golden["tokens_BS"].shape[1] + 1)]
    return {stage.name: stage.max_abs / stage.bound for stage in report.stages} | fed_otherwise(model, golden, cuts)


def broken(mutation) -> dict[str, float]:
    """`climb` with a mistake, on the stored model that its test names."""
    case = mutation.test.partition("[")[2].rstrip("]") or "hf-scout"
    with tempfile.TemporaryDirectory() as folder:
        make_copy(Path(folder))
        apply(mutation, Path(folder))
        with imported(Path(folder)):
            return climb(case)


assert all(max(climb(case).values()) <= 1 for case in CASES)  # unbroken, every rung holds
climbs = {mutation.name: broken(mutation) for mutation in MUTATIONS}

# %% [markdown]
# Each row is a mistake. A cell's number is the power of ten by which the error exceeds the limit (4: ten thousand times),
# and it is blank where the rung holds. Framed is the first rung that fails. The rows differ in their model: some have no
# layer 4, and those of Maverick's kind have experts in layers 1 and 3 only.

# %%
COLUMNS = ["embedding", *(f"layer {n}" for n in range(5)), "logits", "token by token", "unequal rows"]
powers = torch.tensor([[max(1.0, row.get(rung, 1.0)) for rung in COLUMNS] for row in climbs.values()]).log10()
first_rung = {name: next((rung for rung in COLUMNS if row.get(rung, 0) > 1), None) for name, row in climbs.items()}

whole, axes = figure(9.5, 7.6)
matrix(axes, powers, rows=[name.replace(" (Meta's mistake)", "") for name in climbs], columns=COLUMNS, highest=7)
axes.set_aspect("auto")
for y, (name, row) in enumerate(zip(climbs, powers.round().int().tolist(), strict=True)):
    for x, power in enumerate(row):
        axes.text(x, y, power or "", ha="center", va="center", fontsize=7.5, color="white" if power > 3 else "black")
    if first_rung[name]:
        x = COLUMNS.index(first_rung[name])
        frame = [x - 0.46, x + 0.46, x + 0.46, x - 0.46, x - 0.46], [y - 0.42, y - 0.42, y + 0.42, y + 0.42, y - 0.42]
        axes.plot(*frame, color=RED, linewidth=1.8)
show(whole, "A table of 28 mistakes by 9 rungs: shaded where the error exceeds the limit, the first such rung framed.")

# %% [markdown]
# The picture reads like a diagnosis.
#
# - **Mistakes show where they are made.** What is wrong with vision shows in the embedding, before any decoder layer.
#   A missing temperature shows in layer 3, the first without positions, and not before.
# - **They are large**: those that show at all show at a hundred times the limit or more. Between rounding and a mistake
#   lies a wide empty stretch.
# - **A prefill is not all.** Some mistakes leave the one call on all tokens untouched, and show only on a cache or only in
#   a batch.
# - **One row is empty.** A rotation and the QK norm after it may change places in exact arithmetic (chapter 04), so float32
#   cannot tell their order. That mistake has a test of its own, in bfloat16.

# %%
unseen = [name for name, rung in first_rung.items() if rung is None]
assert unseen == ["QK norm before the rotation"]
assert all(max(row.values()) >= 100 for name, row in climbs.items() if name not in unseen)
wrong_eyes = [
    name for name in climbs if name.startswith(("class token", "GELU", "pixel shuffle", "vision RoPE", "tiles"))
]
assert len(wrong_eyes) == 6 and {first_rung[name] for name in wrong_eyes} == {"embedding"}
assert first_rung["temperature missing"] == "layer 3"
assert first_rung["chunk mask missing in decode (Meta's mistake)"] == "token by token"
assert first_rung["slots counted from the padded length"] == "unequal rows"
print("first rung that fails:", {rung: list(first_rung.values()).count(rung) for rung in [*COLUMNS, None]})

# %% [markdown]
# ## The thermometer
#
# All of it on one scale: the relative errors of the comparisons above, each a mark; the largest error of every mistake that
# shows; and the limit between them. Errors of exactly 0 lie at the left edge.

# %%
compared = {rung for rung, *_ in errors}
wholes = ("whole model: text", "whole model: pictures", "whole model: stored", "default model")
names = [*(rung for rung in (*RUNGS, *wholes) if rung in compared), "mistakes"]
marks = {"transformers": (BLUE, "o", -0.15), "llama-models": (GREEN, "^", 0.15)}
whole, axes = figure(8.5, 3.6)
for reference, (colour, marker, shift) in marks.items():
    points = [(max(error, 1e-9), names.index(rung) + shift) for rung, who, error in errors if who == reference]
    axes.scatter(*zip(*points, strict=True), s=14, color=colour, marker=marker, alpha=0.6, label=f"against {reference}")
worst = [1e-5 * max(row.values()) for name, row in climbs.items() if name not in unseen]
axes.scatter(worst, [len(names) - 1] * len(worst), s=18, color=ORANGE, marker="x", label="a mistake")
logarithmic(axes, "x")
axes.axvline(1e-5, color=RED, linewidth=1.4)
axes.text(1.15e-5, -0.75, "the limit", color=RED, fontsize=8)
axes.axvline(6e-8, color="#888888", linewidth=0.8, linestyle=":")
axes.text(5.2e-8, -0.75, "one float32 step", color="#666666", fontsize=8, ha="right")
axes.set(xlim=(5e-10, 20), ylim=(len(names) - 0.4, -1.1), xlabel="largest difference, relative")
axes.set_yticks(range(len(names)), names)
axes.legend(loc="center right", fontsize=8)
show(
    whole,
    "A log scale: all comparisons left of the limit, around one float32 step to ten; all mistakes far right of it.",
)
gap = min(worst) / max(error for *_, error in errors)
print(f"the smallest mistake is {gap:,.0f} times the largest rounding error")
assert gap > 100

# %% [markdown]
# ## In bfloat16
#
# Real checkpoints run in bfloat16: 8 bits, a relative step of 0.004. A fixed limit would be too strict for one model and
# too lax for another. What can be asked is that we lose about as much as the reference itself does: the relative RMS of
# our error may be 1.25 times that of its own, bfloat16 against float32. `llama4 parity --record` writes that own error
# into its file, and `--reference` compares with it.

# %%
if INSTALLED:
    with tempfile.TemporaryDirectory() as folder:
        parity.record(TINY, Path(folder) / "reference.safetensors")
        in_bf16 = parity.compare("tiny", Path(folder) / "reference.safetensors", dtype="bfloat16")
else:
    in_bf16 = parity.compare(GOLDENS / "hf-scout", GOLDENS / "hf-scout.safetensors", dtype="bfloat16")
print(parity.render(in_bf16))
assert in_bf16.passed and in_bf16.stages[0].measure == "relative_rms"
assert torch.finfo(torch.bfloat16).eps / 2 < 0.004

# %% [markdown]
# One more thing happens in bfloat16. The router computes in float32 (chapter 07), but what it reads has been rounded. Logits
# that nearly tie can change places, and the token goes to another expert. That is no longer a rounding but another
# function, as right as the first. How often does it happen? The default model, in both precisions, on the pictures that
# the package holds:

# %%
from llama4.parity.routing import Routing, recorded, routers

models = {dtype: llama4.load_model("tiny", dtype=dtype) for dtype in ("float32", "bfloat16")}
files = sorted(json.loads((FOLDER / "names.json").read_text("utf-8")))
asked = [llm.encode("What is this?", images=[shown(file.removesuffix(".png")).picture]) for file in files]
count, moved = sum(len(one.ids) for one in asked), torch.zeros(4, dtype=torch.int64)
for one in asked:
    taken = {dtype: Routing() for dtype in models}
    for dtype, model in models.items():
        with recorded(routers(model), taken[dtype]):
            model(torch.tensor([one.ids]), images=one.tiles)
    moved += torch.stack([(exact != taken["bfloat16"][at]).sum() for at, exact in taken["float32"].items()])
print(f"tokens of {count:,} that went elsewhere, layer by layer: {moved.tolist()}")
assert 0 < moved.sum() < 0.1 * 4 * count

# %% [markdown]
# A comparison that is about anything else than routing must take that out of the way. In bfloat16 `parity` therefore
# *forces* the reference's experts on our model, while the scores stay our own (`forced`, chapter 07's `recorded` in
# reverse). `rerouted` then counts the tokens that would have gone elsewhere. In float32 nothing is forced: there the
# choice has to be exact.
#
# ## Exercises
#
# **1.** Why are the weights of these tests drawn so large that each layer moves the residual stream by about its own size,
# and not with the usual small deviation of 0.02?
#
# <details><summary>Answer</summary>
#
# With 0.02 a layer whispers beside the residual stream. The cell below leaves out a feed-forward altogether: with small
# weights the logits move less than a tenth as far. A smaller mistake shrinks likewise, and comes closer to the limit. The
# tests want mistakes to be loud, at least 100 times the limit.
#
# </details>

# %% [markdown]
# **2.** "Score on the output instead of its input" on hf-maverick, whose layers 1 and 3 have experts: which rung is the
# first to fail, and why not layer 0?
#
# <details><summary>Answer</summary>
#
# Layer 1. Layer 0 is dense: no router, no score, nothing that the mistake could touch.
#
# </details>
#
# **3.** The router's weight of layer 2 of hf-scout is multiplied by 2. Which numbers of its `llama4 parity` table change,
# from which line on? Does any token go elsewhere in layer 2?
#
# <details><summary>Answer</summary>
#
# From the line `layer 2` on all errors are large. In layer 2 itself no token moves: doubling all logits leaves the largest
# the largest, and only the scores change. From layer 3 on the residual stream differs, and tokens may go elsewhere.
#
# </details>

# %%
assert first_rung["score on the expert's output instead of its input"] == "layer 1"
assert [spec.ffn for spec in llama4.Config.from_dir(GOLDENS / "hf-maverick").layers] == ["dense", "moe"] * 2
golden = load_file(GOLDENS / "hf-scout.safetensors")


def without_a_feed_forward(model: llama4.Llama4) -> float:
    """How far the logits move when the feed-forward of layer 1 is left out."""
    whole_BSV = model(golden["tokens_BS"], images=golden["images"])
    with model.decoder.layers[1].ffn.register_forward_hook(lambda module, args, out: torch.zeros_like(out)):
        return relative(model(golden["tokens_BS"], images=golden["images"]), whole_BSV)


quiet, doubled = (llama4.load_model(GOLDENS / "hf-scout", dtype="float32") for _ in range(2))
for parameter in quiet.parameters():
    if parameter.dim() > 1:
        parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
assert without_a_feed_forward(doubled) > 10 * without_a_feed_forward(quiet)
doubled.decoder.layers[2].ffn.router.weight *= 2
with tempfile.TemporaryDirectory() as folder:
    llama4.checkpoint.save_hf(doubled, folder)
    report = parity.compare(folder, GOLDENS / "hf-scout.safetensors")
assert report.first_divergent == "layer 2" and report.stages[3].rerouted == 0
assert all(stage.max_abs > 100 * stage.bound for stage in report.stages[3:])

# %% [markdown]
# ## Source
#
# - [`model.Llama4.forward`](../llama4/model.py#L40): the whole.
# - [`comparing.compare`](../llama4/parity/comparing.py#L108) and [`recording.record`](../llama4/parity/recording.py#L40):
#   `llama4 parity`.
# - [`routing.forced`](../llama4/parity/routing.py#L52): the reference's experts, forced on ours.
# - [`pairs.hf_pair`](../tests/parity/pairs.py#L78) and [`pairs.meta_pair`](../tests/parity/pairs.py#L93): a drawn model in both
#   programs; [`tolerances.FP32`](../tests/parity/tolerances.py#L33): the limit, with its reason.
# - [`mutation_list.MUTATIONS`](../tests/mutation_list.py#L34): the mistakes; [parity](../docs/parity.md) says where each was
#   made.
