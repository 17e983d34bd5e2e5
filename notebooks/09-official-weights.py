# %% [markdown]
# # 09 · Official weights
#
# *Two layouts of the same numbers: what each weight is called, how it is cut and stacked, a checkpoint taken there and
# back without losing a bit, and where the bytes of Scout and Maverick lie.*
#
# Meta publishes Llama 4 in two layouts. **Meta's own**: `params.json` and `consolidated.00.pth`, `.01.pth`, …, one file
# for each of the cards that share the model. **Hugging Face's**: `config.json` and safetensors. The numbers are the
# same. Their names, their shapes, their order in memory are not.
#
# First the two description files, with the published values. Both should mean the same model, and so should the preset of
# this package, `Config.scout()`.

# %%
import math
import sys
import tempfile
import warnings
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from figures import BLACK, BLUE, COLOURS, GREEN, ORANGE, figure, matrix, show, table
from safetensors.torch import load_file, save_file

import llama4
from llama4 import checkpoint
from llama4.checkpoint.names import hf_names, meta_rows
from llama4.checkpoint.shapes import parameter_shapes
from llama4.load import TINY

torch.set_grad_enabled(False)
torch.set_num_threads(1)  # tiny models: a second thread would mostly wait

# %%
scout, maverick = llama4.Config.scout(), llama4.Config.maverick()
PUBLISHED = Path("../tests/data/configs")
from_hf = llama4.Config.from_dir(PUBLISHED / "scout-instruct.config.json")
from_meta = llama4.Config.from_dir(PUBLISHED / "scout.params.json")
print(f"{'':<13}{'from config.json':<40}from params.json")
for name in ("width", "experts", "chunk", "temperature"):
    print(f"{name:<13}{getattr(from_hf, name)!s:<40}{getattr(from_meta, name)}")
assert from_hf == scout and from_meta.temperature is None
assert replace(from_meta, temperature=scout.temperature) == scout  # all other fields are equal
assert llama4.Config.from_dir(PUBLISHED / "maverick.config.json") == maverick

# %% [markdown]
# One field differs: the attention temperature of chapter 06, which `params.json` does not mention. Absent means off in
# Meta's format and on in Hugging Face's. Such things are why the two readers do not share their defaults.
#
# ## Names
#
# Our parameters have names of their own. `hf_names` and `meta_rows` are the dictionary, as data. Meta's code knows two
# styles: its published files carry the names that training used, and its model renames them as it loads (`wqkv` becomes
# `wq`, `wk` and `wv`). `meta_rows` has both, "training" and "load".
#
# Here is every weight of Scout's layer 0, in our names, Hugging Face's and Meta's training names. `{n}` is the layer's
# number:

# %%
shapes_of = parameter_shapes(scout)
theirs = hf_names(scout)
rows = {row.name: row for row in meta_rows(scout, "training")}


def short(name: str, prefix: str) -> str:
    """A name of layer 0 without its beginning, the layer's number as {n}."""
    return name.removeprefix(prefix).replace("layers.0.", "layers.{n}.")


table(
    ["ours: decoder.…", "our shape", "Hugging Face: language_model.model.…", "Meta"],
    [
        (
            short(ours, "decoder."),
            " × ".join(map(str, shape)),
            short(theirs[ours], "language_model.model."),
            " and ".join(short(row.name, "") for row in rows.values() if ours in row.ours),
        )
        for ours, shape in shapes_of.items()
        if ours.startswith("decoder.layers.0.")
    ],
)

# %% [markdown]
# Our weights and Hugging Face's tensors are pairs, one to one. Meta's differ in two places. `q`, `k` and `v` lie in **one**
# tensor, `wqkv`. And the experts' `gate_up`, one tensor for us, is **two** there: `moe_w_in` is the gate, `moe_w_swiglu`
# the up projection. Each fills one *half* of ours.
#
# A dictionary must lose nothing and double nothing, in both directions:

# %%
back = {name: ours for ours, name in theirs.items()}
print(f"Scout: {len(shapes_of)} weights of ours, {len(back)} tensors of Hugging Face's,", end=" ")
print(f"{len(meta_rows(scout, 'training'))} of Meta's (in each file)")
print(back["language_model.model.layers.7.feed_forward.router.weight"])
assert len(back) == len(theirs) == len(shapes_of) and back.keys() == set(theirs.values())

for config in (scout, maverick):
    for style in ("load", "training"):
        parts = [(ours, row.half) for row in meta_rows(config, style) for ours in row.ours]
        assert len(parts) == len(set(parts))  # no part of a weight is filled twice
        halves = {ours for ours, half in parts if half is not None}
        wanted = {(ours, half) for ours in parameter_shapes(config) for half in ((0, 1) if ours in halves else (None,))}
        assert set(parts) == wanted  # and none is left out

# %% [markdown]
# ## Shards
#
# Meta's files are cut for **tensor parallelism**: 8 cards hold an eighth of every large matrix each, and compute their
# eighth of the layer. Each file is a **shard**. Which dimension is cut depends on the matrix. We look at three cases, on a
# model small enough to see: width 6, 4 query heads of width 4 over 2 key/value heads, 2 experts 8 wide, 2 shards.
#
# `to_file` makes the tensor of one file. It takes a row of the table, our parameters, the file's number and how many files
# there are. Instead of weights we give it numbers that say *where they come from*.

# %%
from llama4.checkpoint.transforms import file_shape, to_file

wqkv, w_in, wo = (rows[f"layers.0.{name}"] for name in (
    "attention.wqkv.weight", "feed_forward.experts.moe_w_in_eD_F", "attention.wo.weight"))  # fmt: skip

HEADS = ("q0", "q1", "q2", "q3", "k0", "k1", "v0", "v1")  # query heads 0 and 1 read key head 0, and 2 and 3 key head 1
PARTS = {8: "gate, file 0", 9: "gate, file 1", 10: "up, file 0", 11: "up, file 1"}
qkv = torch.arange(8).repeat_interleave(4)[:, None].expand(32, 6)  # each head's four rows hold the head's number
q, k, v = qkv.split((16, 8, 8))
gate_up = torch.arange(8, 12).repeat_interleave(4).expand(2, 6, 16)  # [E, D, 2F]: four columns of each part
o = torch.arange(4).repeat_interleave(4).expand(6, 16)

# %%
SHADES = [BLUE, "#4c9ccb", "#8cbcdb", "#c5deed", ORANGE, "#f2cf80", GREEN, "#80cfb9"]
colours = dict(enumerate(zip(HEADS, SHADES, strict=True)))
colours |= {part: (name, SHADES[[0, 2, 4, 5][part - 8]]) for part, name in PARTS.items()}
experts = ["expert 0", *[""] * 5, "expert 1", *[""] * 5]
drawn = {
    "q, k, v: ours": (qkv, [HEADS[n // 4] if n % 4 == 0 else "" for n in range(32)]),
    "wqkv, file 0": (
        to_file(wqkv, [q, k, v], 0, 2),
        [("q0", "q1", "k0", "v0")[n // 4] if n % 4 == 0 else "" for n in range(16)],
    ),
    "wqkv, file 1": (
        to_file(wqkv, [q, k, v], 1, 2),
        [("q2", "q3", "k1", "v1")[n // 4] if n % 4 == 0 else "" for n in range(16)],
    ),
    "gate_up: ours": (gate_up.flatten(0, 1), experts),
    "moe_w_in, file 0": (to_file(w_in, [gate_up], 0, 2), experts),
}

# %%
whole, panels = figure(9.8, 4.4, 1, 5, width_ratios=[4, 6, 6, 16, 6])
for axes, (title, (values, labels)) in zip(panels, drawn.items(), strict=True):
    matrix(axes, values, rows=labels, columns=[""] * values.shape[1], classes=colours)
    axes.set_title(title, fontsize=8.5)
    axes.set_anchor("N")
    axes.get_legend().remove()
for place, name in enumerate(PARTS.values()):
    panels[3].text(4 * place + 1.5, 5.5, name, rotation=90, ha="center", va="center", color=BLACK if place else "white")
panels[4].text(1.5, 5.5, PARTS[8], rotation=90, ha="center", va="center", color="white")
show(
    whole, "Our q, k, v, and each file's wqkv with its own heads; our gate_up in four parts, and one part in moe_w_in."
)

# %% [markdown]
# - `wqkv`: each file has *its heads'* rows of `q`, then of `k`, then of `v`. Glue the files together naively and you get
#   q k v q k v, which is not q k v.
# - `gate_up`: Meta stores gate and up apart, and each file has a *slice of the columns* of both. The experts' first two
#   dimensions are joined: `[E, D, F]` becomes `[E · D, F]`, all experts in one matrix. The picture shows the gate's slice
#   in file 0.
# - `wo`, not drawn, is cut along its *input*, the heads: its second dimension.
#
# Router and norms are not cut at all: every file has a copy. (The router's is transposed, `[D, E]`.)
#
# The same rules with Scout's sizes, as in the files that Meta publishes in 8 parts. On the left of the arrow are our
# shapes, on the right the shape in each file:

# %%
sizes = {}
for row in (wqkv, w_in, wo, rows["layers.0.feed_forward.router_DE"]):
    sizes[row.name] = file_shape(row, [shapes_of[ours] for ours in row.ours], shards=8)
    print(f"{row.name:<46} {[list(shapes_of[ours]) for ours in row.ours]} -> {list(sizes[row.name])}")

assert to_file(wqkv, [q, k, v], 1, 2)[:, 0].tolist() == [2] * 4 + [3] * 4 + [5] * 4 + [7] * 4
assert to_file(w_in, [gate_up], 0, 2).shape == (12, 4) and to_file(w_in, [gate_up], 0, 2).eq(8).all()
assert to_file(wo, [o], 1, 2)[0].tolist() == [2] * 4 + [3] * 4
assert sizes["layers.0.attention.wqkv.weight"] == (640 + 128 + 128, 5120)
assert sizes["layers.0.feed_forward.experts.moe_w_in_eD_F"] == (16 * 5120, 8192 // 8)

# %% [markdown]
# ## There and back
#
# Now a whole checkpoint: a small model with everything in it (both kinds of layers, experts, dense layers, vision), all
# weights drawn at random, in bfloat16. It is written as Meta would, in 4 files; loaded; written as Hugging Face would;
# loaded; and written as Meta would again. Then we list each folder's first three files with their bytes, and compare all
# weights bit by bit.

# %%
from llama4.config import Config, RopeScaling, Temperature, VisionConfig, irope_layers

config = Config(
    vocab_size=128,
    width=64,
    layers=irope_layers(4, moe_every=2),
    heads=8,
    kv_heads=4,
    head_width=8,
    experts=4,
    expert_width=96,
    dense_width=192,
    chunk=7,
    qk_norm=True,
    rope_scaling=RopeScaling(),
    temperature=Temperature(floor=5.0, scale=0.4),
    max_context=10_485_760,
    vision=VisionConfig(tile_side=16, patch_side=4, width=32, layers=2, heads=4, mlp_width=128, adapter_width=32),
    **{"patch_id": 120, "image_start_id": 121, "image_end_id": 122, "bos_id": 0, "stop_ids": (1, 2), "pad_id": 3},
)
model, draw = llama4.Llama4(config).bfloat16().eval(), torch.Generator().manual_seed(0)
for parameter in model.parameters():
    parameter.copy_(torch.randn(parameter.shape, generator=draw) / math.sqrt(parameter.shape[-1]))
print(f"{checkpoint.parameter_count(config):,} parameters")

# %%
scratch = tempfile.TemporaryDirectory()
WORK = Path(scratch.name)
checkpoint.save_meta(model, WORK / "meta", shards=4, names="training")
checkpoint.save_hf(checkpoint.load_model(WORK / "meta"), WORK / "hf", max_shard_bytes=200_000)
checkpoint.save_meta(checkpoint.load_model(WORK / "hf"), WORK / "meta-again", shards=4, names="training")

for folder in ("meta", "hf", "meta-again"):
    files = sorted((WORK / folder).iterdir())
    print(
        f"{folder + '/':<12}",
        "  ".join(f"{file.name} {file.stat().st_size:,}" for file in files[:3]),
        "…",
        len(files),
        "files",
    )


def same_bits(ours: dict, others: dict) -> bool:
    """Do both hold the same names with the same bits?"""
    equal = (
        torch.equal(ours[n].contiguous().view(torch.uint8), others[n].contiguous().view(torch.uint8)) for n in ours
    )
    return ours.keys() == others.keys() and all(equal)


# %%
for file in sorted((WORK / "meta").glob("*.pth")):
    first, again = (torch.load(WORK / folder / file.name) for folder in ("meta", "meta-again"))
    assert same_bits(first, again), file.name
assert (WORK / "meta/params.json").read_text() == (WORK / "meta-again/params.json").read_text()
assert same_bits(model.state_dict(), checkpoint.load_model(WORK / "hf").state_dict())
print("Meta -> Hugging Face -> Meta: every bit is back")

# %% [markdown]
# The default model makes the same journey: out of the package in Hugging Face's layout, to Meta's and back.

# %%
checkpoint.save_meta(llama4.load_model("tiny"), WORK / "tiny-meta", names="training")
checkpoint.save_hf(checkpoint.load_model(WORK / "tiny-meta"), WORK / "tiny-hf")
shipped, returned = load_file(TINY / "model.safetensors"), load_file(WORK / "tiny-hf/model.safetensors")
assert same_bits(shipped, returned)
print(f"{len(shipped)} tensors of the default model: there and back")

# %% [markdown]
# What do the files hold? `list_tensors` reads their headers alone. Here are some tensors of layer 1. For Meta's files, the
# shape is that of the piece in one file, and the bytes are those of the pieces in all four.

# %%
for folder in ("meta", "hf"):
    found = checkpoint.list_tensors(WORK / folder)
    print(f"{folder}: {len(found)} tensors")
    for name, info in found.items():
        asked = "wqkv" in name or "q_proj" in name or "router" in name
        if asked and "layers.1." in name and "vision" not in name:
            print(f"   {name:<58}{list(info.shape)!s:<9}{info.bytes:>7,} bytes, first in {info.file}")

wqkv_in_meta = checkpoint.list_tensors(WORK / "meta")["layers.1.attention.wqkv.weight"]
assert wqkv_in_meta.bytes == 4 * 2 * math.prod(wqkv_in_meta.shape)  # 4 files, 2 bytes a number
assert len(checkpoint.list_tensors(WORK / "hf")) == len(parameter_shapes(config))

# %% [markdown]
# ## A round trip proves little
#
# Bit-exact, there and back: does that prove the table right? No. Suppose gate and up were exchanged in it. Writing would
# put them into the wrong places, reading would take them from there, and every bit would come back. The repository's list
# of mistakes has exactly this one (chapter 08). We make it, in a copy of the package, and send Meta's own numbers through:
# a stored checkpoint in Meta's format, with the logits that Meta's code computed on it.

# %%
sys.path.append("../tests")
from mutation_list import MUTATIONS
from mutations import apply, imported, make_copy

GOLDEN = Path("../tests/parity/goldens/meta-maverick")
swapped = next(mutation for mutation in MUTATIONS if mutation.name.startswith("gate and up swapped while"))


def journey(target: Path) -> tuple[bool, float]:
    """With whatever package `llama4` means: is the round trip exact, and how far over the limit are the logits?"""
    loads, compares = import_module("llama4.checkpoint"), import_module("llama4.parity")
    loads.save_meta(loads.load_model(GOLDEN), target, names="load")
    exact = same_bits(*(torch.load(folder / "consolidated.00.pth") for folder in (GOLDEN, target)))
    logits = compares.compare(GOLDEN, GOLDEN.with_suffix(".safetensors")).stages[-1]
    return exact, logits.max_abs / logits.bound


right = journey(WORK / "right")
make_copy(WORK / "broken")
apply(swapped, WORK / "broken")
with imported(WORK / "broken"):
    wrong = journey(WORK / "wrong")
for name, (exact, over) in {"as it is": right, "gate and up exchanged": wrong}.items():
    print(f"{name:<22} round trip exact: {exact!s:<6} logits: {over:>10,.2f} times the limit")
assert right[0] and wrong[0] and right[1] < 1 < 100 < wrong[1]

# %% [markdown]
# Only numbers from elsewhere can tell. That is why parity is tested *through the files*: a checkpoint that a reference
# wrote, read here; and one written here, read by the references.

# %%
INSTALLED = all(find_spec(name) for name in ("transformers", "llama_models", "fairscale", "pytest"))
warnings.filterwarnings("ignore", message="IProgress not found|Default grid_sample")  # of the references
own = checkpoint.load_model(WORK / "hf", dtype=torch.float32)
tokens_BS = torch.randint(3, 120, (2, 20), generator=torch.Generator().manual_seed(1))
logits_BSV = own(tokens_BS)
far = {}
if INSTALLED:
    import contextlib
    import io
    import json

    sys.path.append("../tests/parity")
    from reference_meta import meta_logits, meta_model

    from llama4.parity.recording import load_transformers

    theirs = load_transformers(WORK / "hf", torch.float32)  # refuses a missing or unexpected tensor
    far["transformers"] = (theirs(input_ids=tokens_BS, use_cache=False).logits - logits_BSV).abs().max().item()
    checkpoint.save_meta(own, WORK / "one", names="training")
    with contextlib.redirect_stdout(io.StringIO()):  # fairscale announces itself
        metas = meta_model(json.loads((WORK / "one/params.json").read_text()), seed=None)
    print("llama-models:", metas.load_state_dict(torch.load(WORK / "one/consolidated.00.pth")))
    far["llama-models"] = (meta_logits(metas, tokens_BS) - logits_BSV).abs().max().item()

# %%
limit = 1e-5 * max(1.0, logits_BSV.abs().max().item())
if not INSTALLED:
    print('The references are not installed, so they read nothing here: pip install -e ".[test]"')
for reference, difference in far.items():
    print(f"{reference:<13} reads what we write: its logits differ from ours by {difference:.1e}, limit {limit:.1e}")
assert all(difference <= limit for difference in far.values())

# %% [markdown]
# And the other way: transformers writes the same model with its own `save_pretrained`, in its own shards, and we read it.

# %%
if INSTALLED:
    theirs.bfloat16().save_pretrained(WORK / "theirs", max_shard_size="200KB")
    read = checkpoint.load_model(WORK / "theirs")
    print(len(list((WORK / "theirs").glob("*.safetensors"))), "files of transformers'")
    assert same_bits(model.state_dict(), read.state_dict())
    print("read here: every bit is the original's")

# %% [markdown]
# ## What is refused
#
# A loader that forgives is dangerous: transformers draws a missing weight at random and goes on, with a warning. Here a
# missing tensor, one too many, a wrong shape, or a dtype unlike the others' is an error, and it names the tensor.
# Three of them (the third leaves a router as it lies in Meta's files):

# %%
tensors = {}
for file in (WORK / "hf").glob("*.safetensors"):
    tensors |= load_file(file)
ROUTER = "language_model.model.layers.1.feed_forward.router.weight"
spoilt = {
    "one missing": {name: tensor for name, tensor in tensors.items() if name != ROUTER},
    "one too many": tensors | {"language_model.model.layers.9.input_layernorm.weight": torch.ones(64)},
    "not transposed": tensors | {ROUTER: tensors[ROUTER].T.contiguous()},
}
told = {}
for name, content in spoilt.items():
    (WORK / name).mkdir()
    (WORK / name / "config.json").write_text((WORK / "hf/config.json").read_text())
    save_file(content, WORK / name / "model.safetensors")
    try:
        checkpoint.load_model(WORK / name)
    except llama4.InputError as error:
        told[name] = str(error).replace(str(WORK / name), "FOLDER")
        print(f"{name}:\n   {told[name]}")
assert told.keys() == spoilt.keys() and ROUTER in told["one missing"] and "layers.9" in told["one too many"]
assert ROUTER in told["not transposed"] and "needs [4, 64]" in told["not transposed"]

# %% [markdown]
# ## Where the bytes lie
#
# The table of shapes needs no weights, so Scout's and Maverick's ledgers can be written on any laptop: how many numbers
# each part has, and how many GB they are in bfloat16, two bytes a number. `projector` is the projection of chapter 02,
# `head` the map to the vocabulary's scores, and `active` what one text token runs through (chapter 07).

# %%
from llama4.inspect import cache_bytes, count_parameters

ledgers = {name: count_parameters(config) for name, config in {"Scout": scout, "Maverick": maverick}.items()}
for name, config in {"Scout": scout, "Maverick": maverick}.items():
    with torch.device("meta"):  # shapes without numbers
        built = llama4.Llama4(config)
    assert sum(weight.numel() for weight in built.parameters()) == ledgers[name]["total"]
    assert {ours: tuple(weight.shape) for ours, weight in built.state_dict().items()} == parameter_shapes(config)

parts = [part for part in ledgers["Maverick"] if part not in ("total", "active")]
print(f"{'':<18}{'Scout':>20}{'GB':>9}{'Maverick':>20}{'GB':>9}")
for part in [*parts, "total", "active"]:
    counts = [ledger.get(part, 0) for ledger in ledgers.values()]
    print(f"{part:<18}" + "".join(f"{count:>20,}{2 * count / 1e9:>9.2f}" for count in counts))
assert (ledgers["Scout"]["total"], ledgers["Maverick"]["total"]) == (108_641_793_536, 401_583_781_376)

# %%
SHOWN = ["routed experts", "shared experts", "dense ffn", "attention", "embedding", "head", "vision encoder"]
whole, panels = figure(9.5, 3.2, 2, 1)
for axes, kept in zip(panels, (SHOWN, SHOWN[1:]), strict=True):
    for line, ledger in enumerate(ledgers.values()):
        left = 0.0
        for part, colour in zip(SHOWN, (*COLOURS[:6], "#999999"), strict=True):
            size = 2 * ledger.get(part, 0) / 1e9
            if part in kept:
                axes.barh(line, size, left=left, color=colour, edgecolor="white", label=part if line == 1 else None)
                left += size
        axes.text(left, line, f" {left:,.0f} GB", va="center", fontsize=8)
    axes.set_yticks(range(2), list(ledgers))
    axes.invert_yaxis()
    axes.margins(x=0.1)
panels[0].set_title("everything, bfloat16")
panels[1].set_title("without the routed experts")
panels[0].legend(fontsize=7.5, ncols=4, loc="upper right", bbox_to_anchor=(1, 1.45))
show(whole, "Bars of bytes by part: most of both models is routed experts; without them 24 and 30 GB are left.")
assert ledgers["Maverick"]["attention"] == ledgers["Scout"]["attention"]
assert ledgers["Maverick"]["routed experts"] == 4 * ledgers["Scout"]["routed experts"]
assert maverick.dense_width == 2 * maverick.expert_width == 16384
assert [round(2 * (ledger["total"] - ledger["routed experts"]) / 1e9) for ledger in ledgers.values()] == [24, 30]

# %% [markdown]
# Take the routed experts away, and 24 and 30 GB are left. The difference is Maverick's dense layers: each is as wide as a
# shared and a routed expert together, 16384. Where Maverick has a dense layer, Scout has a shared expert, half as wide,
# and its routed ones are in the upper bar. A token does the same work in both, which is why both are called 17B.
#
# How large is one of Meta's 8 files? Cut tensors add up to the whole, copied ones come 8 times. Beside it stand two more
# sizes that count when a model is loaded and run: the largest single weight, and the cache of a million tokens
# (chapter 05).


# %%
def file_bytes(config: Config, shards: int) -> int:
    """Bytes of one of Meta's files in bfloat16, headers left out."""
    ours = parameter_shapes(config)
    rows = meta_rows(config, "training")
    return sum(2 * math.prod(file_shape(row, [ours[name] for name in row.ours], shards)) for row in rows)


for name, config in {"Scout": scout, "Maverick": maverick}.items():
    one, total = file_bytes(config, 8), 2 * ledgers[name]["total"]
    largest = max(parameter_shapes(config).items(), key=lambda item: math.prod(item[1]))
    cache = cache_bytes(config, batch=1, context=1_000_000, number_bytes=2)["total"]
    print(f"{name:<9} {one / 1e9:>7.2f} GB a file, {(8 * one - total) / 1e6:,.0f} MB of copies in all eight", end="; ")
    print(
        f"the largest weight has {2 * math.prod(largest[1]) / 1e9:.1f} GB; the cache of 1 M tokens {cache / 1e9:.0f} GB"
    )
    assert 0 <= 8 * one - total < 0.001 * total

assert 2 * math.prod(parameter_shapes(maverick)["decoder.layers.1.ffn.experts.gate_up"]) == 21_474_836_480

# %% [markdown]
# ## Exercises
#
# **1.** In Scout's 8 files, which rows of our `q` are in file 2, and which of `k`?
#
# <details><summary>Answer</summary>
#
# `q` has 40 · 128 = 5120 rows, 640 a file: rows 1280 to 1919, heads 10 to 14. `k` has 8 · 128 = 1024, 128 a file: rows
# 256 to 383, key head 2. Those five query heads are just the ones that read key head 2, so the card with this file can
# compute its heads alone.
#
# </details>
#
# **2.** Can Scout be written in 16 of Meta's files?
#
# <details><summary>Answer</summary>
#
# No. It has 8 key/value heads, and a head is not cut. `save_meta` says so before it writes anything. (Our small model has 4,
# so 8 shards are already too many.)
#
# </details>

# %% [markdown]
# **3.** The router is `[E, D]` here and `[D, E]` in Meta's files. A loader that calls `reshape` instead of transposing
# gets the right shape and no error. How many of a router's numbers come to stand where they belong?
#
# <details><summary>Answer</summary>
#
# Of Scout's 16 · 5120 numbers two: the first and the last. This mistake has been made (transformers, issue 40609), and
# nothing but bad answers gave it away. Try it on a 2 × 3 matrix.
#
# </details>

# %%
heads_of_file = range(2 * 40 // 8, 3 * 40 // 8)
assert list(heads_of_file) == [10, 11, 12, 13, 14] and {head // (40 // 8) for head in heads_of_file} == {2}
rows_q, rows_k = torch.arange(5120)[:, None], torch.arange(1024)[:, None]
in_file_2 = to_file(wqkv, [rows_q, rows_k, rows_k], 2, 8)[:, 0]
assert in_file_2[[0, 639]].tolist() == [1280, 1919] and in_file_2[[640, 767]].tolist() == [256, 383]
try:
    checkpoint.save_meta(model, WORK / "eight", shards=8)
    refused = ""
except llama4.InputError as error:
    refused = str(error)
assert refused.startswith("4 key/value heads do not divide into 8 shards") and not (WORK / "eight").exists()
for width, count in ((3, 2), (scout.width, scout.experts)):
    router_DE = torch.arange(width * count).reshape(width, count)
    same = router_DE.reshape(count, width) == router_DE.T
    assert same.sum() == 2 and same[0, 0] and same[-1, -1]
scratch.cleanup()

# %% [markdown]
# ## Source
#
# - [`names.hf_names`](../llama4/checkpoint/names.py#L176), [`names.meta_rows`](../llama4/checkpoint/names.py#L187) and
#   [`names.Row`](../llama4/checkpoint/names.py#L83): the tables.
# - [`transforms.to_file`](../llama4/checkpoint/transforms.py#L43) and
#   [`transforms.from_file`](../llama4/checkpoint/transforms.py#L49): cutting and stacking, both ways.
# - [`load.load_model`](../llama4/checkpoint/load.py#L32), [`save.save_hf`](../llama4/checkpoint/save.py#L26) and
#   [`save.save_meta`](../llama4/checkpoint/save.py#L49): whole checkpoints.
# - [`shapes.parameter_shapes`](../llama4/checkpoint/shapes.py#L19) and
#   [`inspect.count_parameters`](../llama4/inspect.py#L84): the ledger.
# - [weights](../docs/weights.md): from a gated download to the first answer.
