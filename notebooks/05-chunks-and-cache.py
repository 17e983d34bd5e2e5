# %% [markdown]
# # 05 · Chunks and the cache
#
# *What the model remembers between two tokens it writes, why three layers of four need only one chunk of it, and what
# goes wrong when a decode step forgets the chunk.*
#
# A model reads its prompt at once, the **prefill**, and then writes one token at a time, the **decode**. No token looks
# ahead, so what was computed for the earlier ones still holds when a new one arrives. Keys and values are therefore
# kept in a **cache**, and a decode step computes those of one token only. How many must be kept depends on who may
# still look at them.

# %%
import copy
import json
import math
from dataclasses import replace

import torch
from figures import BLUE, ORANGE, RED, bars, figure, interactive, logarithmic, matrix, shapes, show, slider

import llama4
from llama4 import masks
from llama4.attention import Everything, Rotary, WithinChunk
from llama4.cache import LayerCache, Step
from llama4.config import LayerSpec
from llama4.demo.pictures import FOLDER, shown
from llama4.engine import prefill
from llama4.inspect import cache_bytes

torch.set_grad_enabled(False)
torch.set_num_threads(1)  # one token at a time is no work for two
llm = llama4.load("tiny", dtype="float32")
config = llm.config
scout = llama4.Config.scout()

# %% [markdown]
# ## Which keys a query sees
#
# [Chapter 04](04-rope-and-nope.ipynb) showed the two masks. In a **global** layer a query sees every position up to its
# own. In a **chunked** layer it sees those of its own chunk. So the number of keys in sight grows without end in the
# one, and is a saw in the other. We draw it with the small model's chunk of 384.

# %%
positions_BS = torch.arange(1200)[None]
chunked_S = masks.chunked(positions_BS, positions_BS, config.chunk)[0].sum(-1)
global_S = masks.causal(positions_BS, positions_BS)[0].sum(-1)
shapes(positions_BS=positions_BS, chunked_S=chunked_S, global_S=global_S)
whole, axes = figure(7, 2.6)
axes.plot(global_S, label="global layer")
axes.plot(chunked_S, label="chunked layer")
axes.set_xlabel("position of the query")
axes.set_ylabel("keys it sees")
axes.legend()
show(whole, "A straight line, and a saw with teeth 384 wide.")
assert int(chunked_S.max()) == config.chunk == 384 and int(global_S.max()) == 1200
assert chunked_S[[383, 384, 385]].tolist() == [384, 1, 2]

# %% [markdown]
# The drop is sharp. The token at position 384 sees itself and nothing else, in three layers of four. A window that
# slides along would be kinder to it, and save as much work. What do chunks have in exchange? A long prompt falls into
# pieces that have nothing to do with each other. So the layer folds the chunks onto the batch dimension and runs plain
# causal attention on them, without a mask of its own.
#
# Either way the comparisons shrink, from about S²/2 a head and layer to S · chunk / 2 with chunks.

# %%
million = 2**20
pairs_global, pairs_chunked = million * (million + 1) // 2, million * (scout.chunk + 1) // 2
print(f"Scout, a prompt of {million:,} tokens, comparisons a head and layer:")
print(f"global {pairs_global:.2e}   chunked {pairs_chunked:.2e}   ratio {pairs_global / pairs_chunked:.0f}")
assert int(global_S.sum()) == 1200 * 1201 // 2 and int(chunked_S[:1152].sum()) == 1152 * (384 + 1) // 2
assert round(pairs_global / pairs_chunked) == 128

# %% [markdown]
# ## One chunk of memory
#
# A chunked layer never looks past the start of its chunk. So its cache has as many **slots** as a chunk has positions,
# and a token goes to slot `position % chunk`. When a new chunk begins, the first token overwrites slot 0. What is left
# of the old chunk stays in the higher slots for a while, and no mask lets anyone see it: a query sees the slots up to
# its own.
#
# Here is the real `LayerCache`. Its `period` is the chunk, 4 positions, and its `limit` is more tokens than we feed. A
# `Step` says where a call's tokens stand: one token, at `position`. As keys we store the positions themselves, so that
# we can read back who lies where.

# %%
CHUNK, COUNT = 4, 13
cache = LayerCache(torch.zeros(1), batch_size=1, kv_heads=1, head_width=1, period=CHUNK, limit=64)
held, seen = [], []
for position in range(COUNT):
    step = Step((position,), (1,), 1, torch.device("cpu"))
    key_BSGK = torch.full((1, 1, 1, 1), float(position))
    cache.append(key_BSGK, key_BSGK, step)
    slots = cache.k_BTGK.shape[1]
    keys = cache.k_BTGK[0, :, 0, 0].int().tolist() + [0] * (CHUNK - slots)
    held.append([key if slot <= position else -1 for slot, key in enumerate(keys)])  # -1: nothing there yet
    seen.append(masks.cached(step.positions_BS, CHUNK, CHUNK)[0, 0].int().tolist())
shapes(key_BSGK=key_BSGK, k_BTGK=cache.k_BTGK)
print("after position 5 the slots hold", held[5], "and the query there sees (1) or not (0)", seen[5])
assert held[5] == [4, 5, 2, 3] and seen[5] == [1, 1, 0, 0]
for position in range(COUNT):
    in_sight = [key for key, visible in zip(held[position], seen[position], strict=True) if visible]
    assert in_sight == list(range(position // CHUNK * CHUNK, position + 1))

# %%
whole, axes = figure(7.5, 1.9)
kind = [[0 if key < 0 else 1 + bit for key, bit in zip(*row, strict=True)] for row in zip(held, seen, strict=True)]
classes = {0: ("empty", "#ffffff"), 1: ("left over, hidden", "#dddddd"), 2: ("seen", BLUE)}
matrix(axes, torch.tensor(kind).T, rows=[f"slot {slot}" for slot in range(CHUNK)], classes=classes)
axes.set_title("after position … (column) is written: the position whose key lies in each slot")
for position, row in enumerate(held):
    for slot, key in enumerate(row):
        ink = "white" if kind[position][slot] == 2 else "black"
        axes.text(position, slot, "" if key < 0 else key, ha="center", va="center", color=ink, fontsize=8)

# %% [markdown]
# The picture below has a column for each position. Where scripts run, in Jupyter, a slider under it goes through them.


# %%
def boxes(numbers: list[int], kinds: list[str]) -> list[tuple[object, str]]:
    """A row of the slider."""
    return [("" if number < 0 else number, kind) for number, kind in zip(numbers, kinds, strict=True)]


names = ["empty", "left over", "seen"]
frames = [
    {
        "global layer, a slot for every position": boxes(
            list(range(COUNT)), ["seen"] * (at + 1) + ["empty"] * (COUNT - at - 1)
        ),
        "chunked layer, four slots": boxes(held[at], [names[value] for value in kind[at]]),
    }
    for at in range(COUNT)
]
markup = slider(frames, "position", {"empty": "#ffffff", "left over": "#dddddd", "seen": BLUE})
interactive(markup, whole, "Four rows of slots over 13 positions: each new chunk overwrites them, slot 0 first.")

# %% [markdown]
# ## Cached equals uncached
#
# The promise of a cache is that nobody can tell it is there. We check it on the trained model, over two chunk
# boundaries, with a real prompt: six questions about pictures with their answers, and then a long text, the names of
# 28 pictures in sixteen languages.

# %%
PICTURES = ("dog-face", "guitar", "rocket", "pizza", "house", "key")
table = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))
messages = []
for picture in map(shown, PICTURES):
    question = [{"type": "image", "image": picture.picture}, {"type": "text", "text": "What is this?"}]
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": picture.names["en"]}]
text = "\n".join(name for entry in table.values() for name in entry["names"].values())
prompt = llm.encode([*messages, {"role": "user", "content": text}])
START, END = 300, 900  # decode these one by one: chunks begin at 384 and at 768
tokens_BS = torch.tensor([prompt.ids[:END]])
shapes(tokens_BS=tokens_BS, tiles=prompt.tiles)
assert config.patch_id not in prompt.ids[START:]  # all pictures lie in what is read at once
whole_BSV = llm.model(tokens_BS, images=prompt.tiles)
shapes(whole_BSV=whole_BSV)

# %% [markdown]
# `whole_BSV` are the scores of one call on all tokens, without a cache. Now the other way: 300 tokens in one call, the
# remaining 600 one by one, each call with one token and the cache.


# %%
def one_by_one(model: llama4.Llama4) -> torch.Tensor:
    """The scores of the tokens from START on, `[END - START, V]`, each fed by itself."""
    cache = model.new_cache(1, END)
    model(tokens_BS[:, :START], images=prompt.tiles, cache=cache, logits="last")
    return torch.cat([model(tokens_BS[:, at : at + 1], cache=cache)[:, 0] for at in range(START, END)])


cached_SV = one_by_one(llm.model)
difference = (cached_SV - whole_BSV[0, START:]).abs().amax(-1)
shapes(cached_SV=cached_SV)
print(f"largest difference of any score {difference.max():.1e}, scores go up to {whole_BSV.abs().max():.1f}")
assert difference.max() < 1e-3
assert (cached_SV.argmax(-1) == whole_BSV[0, START:].argmax(-1)).float().mean() > 0.99  # but for a tie


# %% [markdown]
# Nor does it matter how a prompt is cut. Several tokens may arrive on a filled cache, and a call may lie across a
# boundary: a chunked layer then works on each side by itself. `prefill` is what reads prompts for `generate`. Here it
# reads ours in pieces of at most 100 tokens, never cutting inside a tile, and ends at the same scores.

# %%
cache = llm.model.new_cache(1, END)
piece = Step((300,), (200,), 200, torch.device("cpu"))
print("a call with positions 300 to 499 is cut into columns", piece.pieces(config.chunk))
assert piece.pieces(config.chunk) == [(0, 84), (84, 200)]
last_BV = prefill(llm.model, cache, [replace(prompt, ids=prompt.ids[:END])], size=100)
sayable = torch.arange(config.vocab_size) != config.patch_id  # `prefill` makes sure that <|patch|> is never written
assert (last_BV[0] - whole_BSV[0, -1])[sayable].abs().max() < 1e-3

# %% [markdown]
# ## What it weighs
#
# Per token and layer the cache holds a key and a value for each of G key/value heads, K numbers wide. For Scout in
# bf16 that is 2 · 8 · 128 · 2 bytes = 4096. A global layer pays it for every token, a chunked one for at most 8192.

# %%
tiny_cache = llm.model.new_cache(1, END)
llm.model(tokens_BS, images=prompt.tiles, cache=tiny_cache, logits="last")
for number, layer in enumerate(tiny_cache.layers):
    print(f"tiny, layer {number} ({config.layers[number].span:<5}) after {END} tokens: {layer.k_BTGK.shape[1]} slots")
assert [layer.k_BTGK.shape[1] for layer in tiny_cache.layers] == [384, 384, 384, 900]
assert tiny_cache.nbytes == cache_bytes(config, 1, END, number_bytes=4)["total"]

# %% [markdown]
# `cache_bytes` computes what a cache of any size takes, and has just agreed with a real one, in fp32. So we may ask it
# about Scout, in bf16. The axes of the picture are logarithmic. Up to 8192 tokens all layers grow; from there on the
# chunked ones are full, and only the global ones do.

# %%
slot = 2 * scout.kv_heads * scout.head_width * 2
contexts = [2**power for power in range(10, 24)]
chunkless = replace(scout, layers=tuple(replace(spec, span="all") for spec in scout.layers), max_context=2**24)
with_chunks, without = (
    [cache_bytes(model, 1, context, 2) for context in contexts]
    for model in (replace(scout, max_context=2**24), chunkless)
)
whole, axes = figure(7, 3)
axes.plot(contexts, [found["total"] / 1e9 for found in without], color=RED, label="all 48 layers global")
axes.plot(contexts, [found["total"] / 1e9 for found in with_chunks], color=BLUE, label="Scout")
axes.plot(
    contexts, [found["chunked"] / 1e9 for found in with_chunks], "--", color=ORANGE, label="its 36 chunked layers"
)
logarithmic(axes)
axes.set_xlabel("tokens")
axes.set_ylabel("GB, one row, bf16")
axes.legend()
show(whole, "Two lines that part at 8192 tokens, and one that becomes level there.")
assert slot == 4096

# %%
found = cache_bytes(scout, 1, million, 2)
for kind, layers in (("chunked", 36), ("global", 12)):
    print(f"Scout at {million:,} tokens: {layers} {kind} layers, {found[kind] / layers / 1e6:,.1f} MB each, "
          f"{found[kind] / 1e9:.1f} GB")  # fmt: skip
print(f"all together {found['total'] / 1e9:.1f} GB; without chunks {48 * million * slot / 1e9:.0f} GB")
assert found["global"] / 12 == 128 * found["chunked"] / 36 and found["global"] > 0.97 * found["total"]
assert found == {"chunked": 36 * 8192 * slot, "global": 12 * million * slot, "total": found["total"]}
assert f"{found['chunked'] / 1e9:.1f} {found['global'] / 1e9:.1f}" == "1.2 51.5"

whole, axes = figure(8, 2.2)
per_layer = [(million if spec.span == "all" else scout.chunk) * slot / 1e6 for spec in scout.layers]
axes.bar(range(48), per_layer, color=[BLUE if spec.span == "all" else ORANGE for spec in scout.layers])
logarithmic(axes, "y")
axes.set_ylim(1, 1e4)
axes.set_xlabel("layer of Scout")
axes.set_ylabel("MB at 2^20 tokens")
axes.set_title("every fourth layer is global")
show(whole, "48 bars: every fourth reaches 4,295 MB, the others 34 MB.")

# %% [markdown]
# Time follows the memory. Writing a token means reading once what it may see: at a million tokens that is, in a global
# layer, at least 128 times as much as in a chunked one. So at long contexts nearly all of the memory and of the reading
# is the twelve NoPE layers', the subject of [chapter 06](06-ten-million-tokens.ipynb).
#
# ## The decode step that forgets the chunk
#
# Meta's reference code builds its masks only when a call has more than one token. A call with a single token gets none.
# For a global layer that is right: everything in its cache is the past. For a chunked layer it is not. There too
# Meta's cache keeps all tokens, and the new one sees all of them. Nothing shows inside the first chunk. Past it,
# prefill and decode are two different models.
#
# We rebuild that behaviour from this package's own parts. In a prefill the layer keeps to the chunk. On a cache it
# does as a global layer does, with keys turned by their absolute positions. (That this is what Meta's code computes is
# tested: [test_metas_decode.py](../tests/notebooks/test_metas_decode.py) runs Meta's own model and the next cell on
# the same weights.)


# %%
class Forgetful(WithinChunk):
    """The chunk in a prefill, as it should be; on a cache, everything."""

    block = 1  # queries that share a mask, in `Everything`
    cached = Everything.cached


def as_meta_decodes(model: llama4.Llama4) -> llama4.Llama4:
    """A copy with the same weights whose chunked layers forget the chunk when they go on from a cache."""
    model = copy.deepcopy(model)
    for layer, spec in zip(model.decoder.layers, model.config.layers, strict=True):
        if spec.span == "chunk":
            layer.attention.reach = Forgetful(model.config.chunk)
            layer.attention.positions = Rotary(model.config, LayerSpec("rope", "all", spec.ffn))
    every = tuple(replace(spec, span="all") for spec in model.config.layers)
    model.config = replace(model.config, layers=every)  # so that its cache keeps all tokens
    return model


# %% [markdown]
# Without a cache the copy is the same model. One token at a time it is not. We compare the two ways of decoding, the
# forgetful one and this package's, with the one call on all tokens, about which Meta's code and ours agree (chapter 08).

# %%
forgetful = as_meta_decodes(llm.model)
same_BSV = forgetful(tokens_BS, images=prompt.tiles)
assert (same_BSV - whole_BSV).abs().max() < 1e-3

wrong_SV = one_by_one(forgetful)
error = (wrong_SV - whole_BSV[0, START:]).abs().amax(-1)
whole, axes = figure(8, 3)
axes.plot(range(START, END), error, color=RED, linewidth=0.8, label="one by one, chunk forgotten")
axes.plot(range(START, END), difference, color=BLUE, linewidth=0.8, label="one by one, this package")
for edge in (384, 768):
    axes.axvline(edge, color="grey", linewidth=0.8, linestyle="--")
logarithmic(axes, "y")
axes.set_xlabel("position (dashed: a chunk begins)")
axes.set_ylabel("largest difference of a score")
axes.legend(loc="center")
show(whole, "Two lines lie together up to position 384; there the line of the forgotten chunk jumps up and stays.")
assert error[: 384 - START].max() < 1e-3 < 0.5 < error[384 - START]

# %% [markdown]
# How bad is it? A difference of scores says little to the eye. So we also count how often the likeliest next token is
# another one, and measure how much the two distributions differ, in bits (Kullback-Leibler divergence: 0 if they are
# equal).

# %%
past = slice(384 - START, None)
right, wrong = whole_BSV[0, START:][past].log_softmax(-1), wrong_SV[past].log_softmax(-1)
other = (right.argmax(-1) != wrong.argmax(-1)).float()
bits = (right.exp() * (right - wrong)).sum(-1) / math.log(2)
print(f"positions 384 to {END - 1}: largest difference of a score {error[past].max():.1f}")
print(f"another likeliest token at {other.mean():.0%} of them, {bits.mean():.2f} bits a token apart on average")
by_place = [bits[first : first + 64].mean().item() for first in range(0, len(bits), 64)]
whole, axes = figure(6, 2.6)
bars(axes, [f"from {384 + 64 * at}" for at in range(len(by_place))], by_place)
axes.set_title("bits a token apart, mean over 64 positions; chunks begin at 384 and 768")
show(whole, "Bars of the divergence for stretches of 64 positions.")
assert other.mean() > 0.02 and bits.mean() > 0.02 and bits.min() > -1e-3
assert by_place[0] > by_place[5]  # worst at the beginning of a chunk, milder at its end

# %% [markdown]
# Why does it hurt? These layers learnt to weigh at most 384 keys, at distances below 384. Suddenly there are more keys
# than ever, at distances that they never met. And what was read at once no longer fits what was written token by
# token: the same text gets two different sets of vectors. The damage is greatest where a chunk begins: there a chunked
# layer should see one token, and sees all of them.

# %% [markdown]
# ## Exercises
#
# **1.** Scout writes the token at position 20 000. In which slot of a chunked layer does its key land, and which
# position's key does it overwrite?
#
# <details><summary>Answer</summary>
#
# Slot 20 000 % 8192 = 3616. There lay position 20 000 − 8192 = 11 808, of the chunk before, which nobody could see any
# more.
#
# </details>
#
# **2.** From how many tokens on do Scout's 12 global layers hold more than its 36 chunked ones?
#
# <details><summary>Answer</summary>
#
# The chunked layers hold at most 36 · 8192 slots. 12 · S is more from S = 24 577 on: three chunks and one token.
#
# </details>

# %% [markdown]
# **3.** In a batch for the small model, the last token of one row is at position 383 and that of another at position 10.
# Both get one more token. How many slots of a chunked layer's buffer does each of the two new tokens see?
#
# <details><summary>Answer</summary>
#
# The rows have their own positions. The first new token is at position 384, slot 0, and sees one slot. The second is
# at position 11 and sees twelve. `masks.cached` gives each row its own row of the mask.
#
# </details>

# %%
assert 20_000 % scout.chunk == 3616 and 20_000 - scout.chunk == 11_808
held_by = {context: cache_bytes(scout, 1, context, 2) for context in (24_576, 24_577)}
assert (
    held_by[24_576]["global"] == held_by[24_576]["chunked"] and held_by[24_577]["global"] > held_by[24_577]["chunked"]
)
step = Step((384, 11), (1, 1), 1, torch.device("cpu"))
assert masks.cached(step.positions_BS, config.chunk, config.chunk).sum(-1).flatten().tolist() == [1, 12]

# %% [markdown]
# ## Source
#
# - [`cache.LayerCache`](../llama4/cache.py#L134) and [`cache.Step`](../llama4/cache.py#L48): slots, and who writes where.
# - [`attention.WithinChunk`](../llama4/attention.py#L132) and [`attention.Everything`](../llama4/attention.py#L110): the two
#   kinds of layer, each with and without a cache.
# - [`masks.cached`](../llama4/masks.py#L36): one line of visibility for both.
# - [`inspect.cache_bytes`](../llama4/inspect.py#L95): the bytes, also behind the command `llama4 inspect`.
# - [test_divergences.py](../tests/test_divergences.py): Meta's decode against its own prefill.
