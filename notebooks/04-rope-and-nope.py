# %% [markdown]
# # 04 · RoPE and NoPE
#
# *Where a token stands: three layers of four turn their queries and keys by the position and look no further than their
# chunk, the fourth has no positions and sees everything.*
#
# Attention by itself has no order. A query is compared with every key, and a sum does not care who came first. So
# positions must be put in. Llama 4 puts them into most layers, by **rotary position embedding** (RoPE), and leaves
# them out of every fourth layer (NoPE, no positional embedding). Meta calls the mixture **iRoPE**, i for interleaved.
#
# We build it up from one pair of numbers and try it on the trained model. Then we see what a token can know after each
# layer of a period of four, and why the position is counted inside the chunk.

# %%
import copy
import math
import warnings
from dataclasses import replace
from unittest import mock

import torch
from einops import rearrange
from figures import BLUE, ORANGE, RED, figure, logarithmic, matrix, shapes, show

import llama4
from llama4 import rope
from llama4.attention import Attention
from llama4.cache import Step
from llama4.config import LayerSpec, RopeScaling
from llama4.demo.pictures import FOLDER, shown
from llama4.evaluation.attending import mask, watched
from llama4.layers import rms_norm

torch.set_grad_enabled(False)
llm = llama4.load("tiny", dtype="float32")
config, layers = llm.config, llm.model.decoder.layers
scout = llama4.Config.scout()

# %% [markdown]
# ## A position is a turn
#
# Take two numbers of a query or a key as a point of the plane. RoPE turns that point about the origin, by an angle that
# grows with the position. A head of width K holds K/2 such pairs, and pair i, counted from 0, has its own speed, in
# radians a token:
#
# $$\text{frequency}_i = \theta^{-2i/K}$$
#
# `rope.frequencies` computes the speeds, `rope.rotation` the cosines and sines of position × frequency, `rope.rotate`
# turns. Here a head is 8 wide and θ is 100, so that four pairs are enough to see fast and slow.

# %%
freqs = rope.frequencies(head_width=8, theta=100.0, scaling=None)
positions = torch.arange(8)
turn = rope.rotation(positions, freqs)
x_S1K = torch.tensor([1.0, 0.0] * 4).expand(8, 1, 8)  # eight positions, one head, the point (1, 0) in every pair
turned_S1K = rope.rotate(x_S1K, turn)
shapes(freqs=freqs, cosines=turn[0], x_S1K=x_S1K, turned_S1K=turned_S1K)

whole, panels = figure(9, 2.6, 1, 4)
for pair, axes in enumerate(panels):
    points = turned_S1K[:, 0, 2 * pair : 2 * pair + 2]
    circle = torch.linspace(0, 2 * math.pi, 99)
    axes.plot(circle.cos(), circle.sin(), linewidth=0.8)
    for position, (x, y) in enumerate(points.tolist()):
        axes.plot([x], [y], "o", color=ORANGE, markersize=4)
        if position % round(0.3 / freqs[pair].item() + 0.5) == 0:  # a number where there is room for it
            axes.text(1.2 * x, 1.2 * y, position, ha="center", va="center", fontsize=7)
    axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    axes.axis("off")
    axes.set_title(f"pair {pair}: {freqs[pair]:.3g} rad a token")
show(whole, "Four circles with the positions 0 to 7 on them: far apart in pair 0, close together in pair 3.")

# %%
at_position_3 = turned_S1K[3, 0]
assert torch.allclose(at_position_3[:2], torch.tensor([math.cos(3.0), math.sin(3.0)]))  # pair 0: 1 rad a token
assert torch.allclose(turned_S1K.square().sum(-1), x_S1K.square().sum(-1))  # a turn changes no length

# %% [markdown]
# ## The score knows the distance, not the place
#
# If the query is turned by its position and the key by its own, the angle between the two changes by the difference
# alone. So does their product, the score. Below one query and one key, drawn at random, are put at all pairs of
# positions from 0 to 11: `S` positions of the query, `T` of the key. Every diagonal of the table, one distance each, is
# one colour, the deeper the blue the higher the score. And 500 tokens later the table is the same.

# %%
generator = torch.Generator().manual_seed(1)
q_1K, k_1K = torch.randn(2, 1, 32, generator=generator)
freqs = rope.frequencies(32, config.rope_theta, None)


def score_table(positions: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Scores of the one query (rows) and the one key (columns) at all these positions."""
    turn = rope.rotation(positions, freqs)
    q_S1K, k_S1K = (rope.rotate(x.expand(len(positions), 1, 32), turn) for x in (q_1K, k_1K))
    return q_S1K[:, 0] @ k_S1K[:, 0].T


scores_ST = score_table(torch.arange(12), freqs)
shapes(q_1K=q_1K, k_1K=k_1K, scores_ST=scores_ST)
whole, axes = figure(3.6, 3.2)
matrix(axes, scores_ST, signed=True)
axes.set_title("score of a query (row) and a key (column)")
show(whole, "A 12 x 12 table whose diagonals each have one colour.")

for distance in range(-11, 12):
    diagonal = scores_ST.diagonal(distance)
    assert (diagonal - diagonal[0]).abs().max() < 1e-4
assert (scores_ST - score_table(torch.arange(12) + 500, freqs)).abs().max() < 1e-3  # 500 tokens later

# %% [markdown]
# A trained head makes use of that. Imagine a chunk filled with one and the same word. All queries are then equal
# before they are turned, and so are all keys: whatever the last token prefers, it prefers by distance. We give the
# word's embeddings to the trained model's first layer, and to its last, which is a NoPE layer.
#
# `project` is the part of a layer's attention that makes queries, keys and values, positions included. A `Step` tells
# it where the tokens stand: one row, from position 0, 384 tokens. The shapes have two new letters. `H` counts the heads
# of queries and `G` those of keys and values, which are fewer, so that several query heads share one: 40 and 8 in
# Scout, 6 and 2 here. ([All letters](../docs/notation.md).)

# %%
word = llm.tokenizer.encode("dog")[0]
step = Step((0,), (config.chunk,), config.chunk, torch.device("cpu"))
x_1SD = llm.model.decoder.embedding(torch.full((1, config.chunk), word))
whole, panels = figure(8.5, 2.6, 1, 2, sharey=True)
curves = {}
for number, axes in zip((0, 3), panels, strict=True):
    q_BSHK, k_BSGK, _ = layers[number].attention.project(layers[number].attention_norm(x_1SD), step)
    k_BSHK = k_BSGK.repeat_interleave(config.heads // config.kv_heads, dim=2)
    curves[number] = (q_BSHK[0, -1] * k_BSHK[0]).sum(-1).flip(0) / math.sqrt(config.head_width)
    axes.plot(curves[number][:100], linewidth=1)
    axes.set_title(f"layer {number} ({config.layers[number].position}), one line a head")
    axes.set_xlabel("distance from the last token")
panels[0].set_ylabel("score")
shapes(q_BSHK=q_BSHK, k_BSGK=k_BSGK)
show(whole, "Left wavy curves over the distance, one a head; right only flat lines.")

assert (curves[0].amax(0) - curves[0].amin(0)).max() > 0.5  # the RoPE layer cares how far
assert (curves[3] - curves[3][:1]).abs().max() < 1e-4  # the NoPE layer cannot
assert (scout.heads, scout.kv_heads) == (40, 8) and q_BSHK.shape[1:3] == (384, 6) and k_BSGK.shape[2] == 2

# %% [markdown]
# ## Which numbers form a pair
#
# Nothing says that a pair must be two neighbours. Meta's code pairs **neighbours**, (2i, 2i+1). Most code on the
# Hugging Face hub splits the head in **halves** and pairs (i, i + K/2); its Llama 2 and 3 checkpoints were permuted to
# fit. Llama 4 breaks with that: neighbours in Meta's files and in Hugging Face's, no permutation. The two tables show
# the turn of position 3 as a matrix, once either way, blue above 0 and red below. The second is the first with its rows
# and columns reordered.


# %%
def to_halves(width: int) -> torch.Tensor:
    """The permutation of Llama 2 and 3 conversions: first the even entries of a head, then the odd ones."""
    return torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2)))


rotate_neighbours = rope.rotate


def rotate_halves(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The other convention, made of the package's own: reorder, turn neighbours, order back."""
    order = to_halves(x.shape[-1])
    return rotate_neighbours(x[..., order.argsort()], turn)[..., order]


turn = rope.rotation(torch.tensor(3), rope.frequencies(8, 100.0, None))
whole, panels = figure(6.5, 3, 1, 2)
for axes, rotate, name in zip(panels, (rotate_neighbours, rotate_halves), ("neighbours", "halves"), strict=True):
    matrix(axes, rotate(torch.eye(8), turn), signed=True)
    axes.set_title(f"{name}: entry (row) goes to (column)")
show(whole, "Left 2 x 2 blocks along the diagonal, right three diagonals, four apart.")

blocks = rearrange(rope.rotate(torch.eye(8), turn), "(a two) (b three) -> a b two three", two=2, three=2)
assert all(bool(blocks[a, b].any()) == (a == b) for a in range(4) for b in range(4))

# %% [markdown]
# Each convention is fine. A mixture is not: rows of the query and key weights permuted as for Llama 3 but turned as
# neighbours, or the other way round. Nothing crashes, no shape is wrong, no length changes, and there is still an
# answer, a wrong name or pieces of names. So we measure the damage on the trained model: it reads eight pictures with
# their names, and we compare the probability that it gives to the tokens of the right names.

# %%
PICTURES = ("dog-face", "guitar", "rocket", "strawberry", "penguin", "pizza", "house", "key")


def permuted(model: llama4.Llama4) -> llama4.Llama4:
    """A copy whose rows of q and k stand as a converter for Llama 3 would write them."""
    model, order = copy.deepcopy(model), to_halves(config.head_width)
    for layer in model.decoder.layers:
        for linear in (layer.attention.q, layer.attention.k):
            heads = rearrange(linear.weight, "(h k) d -> h k d", k=config.head_width)
            linear.weight = torch.nn.Parameter(rearrange(heads[:, order], "h k d -> (h k) d"))
    return model


def name_probability(model: llama4.Llama4, rotate: object) -> float:
    """Geometric mean over all tokens of the right names. Only the text layers turn by `rotate`."""
    told = []
    for picture in map(shown, PICTURES):
        prompt = llm.encode("What is this?", [picture.picture])
        ids = torch.tensor([prompt.ids + (name := llm.tokenizer.encode(picture.names["en"]))])
        step = Step((0,), (ids.shape[1],), ids.shape[1], ids.device)
        x_BSD = model.embed(ids, prompt.tiles, step)
        with mock.patch.object(rope, "rotate", rotate):  # what every text layer calls
            logits_BSV = model.decoder.logits(model.decoder(x_BSD, step, None))
        told += logits_BSV[0, -len(name) - 1 : -1].log_softmax(-1)[range(len(name)), name].tolist()
    return math.exp(sum(told) / len(told))


# %%
as_llama_3 = permuted(llm.model)
found = {
    "rows as stored,  neighbours": name_probability(llm.model, rotate_neighbours),
    "rows permuted,   halves": name_probability(as_llama_3, rotate_halves),
    "rows permuted,   neighbours": name_probability(as_llama_3, rotate_neighbours),
    "rows as stored,  halves": name_probability(llm.model, rotate_halves),
}
for case, probability in found.items():
    print(f"{case:<28} {probability:.4f}")
wrong = llama4.LLM(as_llama_3, llm.tokenizer)
for name in PICTURES[:4]:
    picture = shown(name).picture
    answers = llm.generate("What is this?", [picture]), wrong.generate("What is this?", [picture], max_new_tokens=12)
    print(f"{name:<12} as stored: {answers[0]!r:<24} permuted: {answers[1]!r}")

right, other, *mixed = found.values()
assert math.isclose(right, other, rel_tol=1e-3)  # two conventions, one model
assert max(mixed) < 0.9 * right  # and two mistakes that nothing announces

# %% [markdown]
# ## Fast pairs and slow pairs
#
# Scout's heads are 128 wide, so there are 64 pairs, with θ = 500 000. The first turns by one radian a token, a full
# turn in 6.3 tokens. The last needs 2.6 million tokens for a turn. Scout then slows the slow ones further, as Llama 3.1
# did: a pair whose full turn takes longer than 8192 tokens, the length of a chunk, gets 16 times slower. (Maverick does
# without.)
#
# In Llama 3.1 there is a zone between fast and slow where the two are blended. Its ends are counted in full turns
# within 8192 tokens, 1 and 4. Scout sets both ends to 1, so nothing lies in the zone. The picture's third curve, the
# stale one, has Llama 3.1's values: the next section is about it.

# %%
plain = rope.frequencies(scout.head_width, scout.rope_theta, None)
scaled = rope.frequencies(scout.head_width, scout.rope_theta, scout.rope_scaling)
stale = rope.scale_frequencies(plain, RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0))
whole, axes = figure(7, 3)
for freqs, name, form in (
    (plain, "unscaled", "-"),
    (scaled, "Scout: factor 16, zone 1 to 1", "o"),
    (stale, "stale: factor 8, zone 1 to 4", "x"),
):
    axes.plot(2 * math.pi / freqs, form, markersize=4, label=name)
logarithmic(axes, "y")
axes.axhline(8192, color=RED, linewidth=0.8, linestyle="--", label="8192 tokens")
axes.set_xlabel("pair")
axes.set_ylabel("tokens for a full turn")
axes.legend()
show(whole, "Tokens for a turn over the pair, log scale: Scout's jump up by 16 where they cross 8192.")

slow = 2 * math.pi / plain > 8192
print(f"{int(slow.sum())} of {len(plain)} pairs are slow; the first of them is pair {int(slow.nonzero()[0])}")
assert f"{2 * math.pi / plain[0]:.1f}" == "6.3" and f"{2 * math.pi / plain[-1] / 1e6:.1f}" == "2.6"
assert torch.equal(scaled[~slow], plain[~slow]) and torch.allclose(scaled[slow] * 16, plain[slow])
assert (scout.rope_theta, len(plain)) == (500_000, 64) and llama4.Config.maverick().rope_scaling is None

# %% [markdown]
# What are slow pairs good for? Within a chunk they hardly turn: after scaling, less than a sixteenth of a full turn
# from one end to the other. They compare content, wherever it stands, much as a NoPE layer does. The fast pairs tell
# the near distances apart.
#
# ### A trap: the stale scaling
#
# Scout's first `config.json` carried Llama 3.1's values, factor 8 with a blending zone from 1 to 4, and the conversion
# script of `transformers` still writes them. On short prompts a model loaded so seems right. The angles drift apart
# with the distance, so the harm shows late.

# %%
distances = torch.arange(8192)
drift = (distances[:, None] * (stale - scaled)).abs().amax(-1)  # of the pair that is off most
whole, axes = figure(6, 2.4)
axes.plot(distances[1:], drift[1:])
logarithmic(axes)
axes.axhline(math.pi, color=RED, linewidth=0.8, linestyle="--", label="half a turn: as wrong as can be")
axes.set_xlabel("distance of query and key")
axes.set_ylabel("worst angle, rad off")
axes.legend()
show(whole, "The worst angle's error over the distance, a straight line that passes half a turn.")
half = int((drift > math.pi).nonzero()[0])
print(f"{int((stale != scaled).sum())} of 64 pairs differ; the worst is half a turn off from distance {half} on")
assert drift[50] < 0.1 and drift[-1] > 2 * math.pi
assert 8192 * scaled[slow].max() < 2 * math.pi / 16  # a slow pair, from one end of a chunk to the other

# %% [markdown]
# So the package does not trust these values in a file that is otherwise Scout's: it reads 16 and 1, and says so.
# `to_hf` makes the contents of Hugging Face's `config.json`, `from_hf` reads them.

# %%
from llama4.config_io.hf import from_hf, to_hf

data = to_hf(scout)
print("right:", data["text_config"]["rope_scaling"])
data["text_config"]["rope_scaling"] |= {"factor": 8.0, "high_freq_factor": 4.0}
print("stale:", data["text_config"]["rope_scaling"])
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    read = from_hf(data)
print("warning:", said[0].message)
assert read.rope_scaling == scout.rope_scaling and len(said) == 1

# %% [markdown]
# ## Then the norm
#
# In the RoPE layers of Scout, and of the small model, each head's query and key are normed after they are turned:
# divided by their root mean square, without a weight. This is **QK norm**. Maverick has none. Since a turn changes no
# length, norm and turn could change places in exact arithmetic. In bf16 each step rounds, so the order is part of the
# model.
#
# What the norm is good for is a bound. A normed head of width K has length √K. The product of two is at most K, the
# score, divided by √K, at most √K: 11.3 for Scout, 5.7 here. No token can shout louder. The NoPE layer, the last in the
# list below, is not normed: its queries have any length, and no bound holds for its scores.

# %%
prompt = llm.encode("What is this?", images=[shown("dog-face").picture])
with watched(llm.model) as seen:  # layer -> its queries, keys and values in the call below
    llm.model(torch.tensor([prompt.ids]), images=prompt.tiles)
shapes(q_BSHK=seen[0].q_BSHK, scores_BHST=seen[0].scores())
bound = math.sqrt(config.head_width)
print(f"bound {bound:.2f}")
for number, compared in seen.items():
    rms = compared.q_BSHK.square().mean(-1).sqrt()
    print(
        f"layer {number} {config.layers[number].position}: root mean square of a head's query "
        f"{rms.min():.3f} to {rms.max():.3f}, largest score {compared.scores().abs().max():.2f}"
    )
    if config.layers[number].position == "rope":
        assert (rms - 1).abs().max() < 1e-2 and compared.scores().abs().max() <= bound + 1e-3

x = torch.randn(5, 1, 32)
turn = rope.rotation(torch.arange(5), rope.frequencies(32, config.rope_theta, None))
assert torch.allclose(rms_norm(rope.rotate(x, turn), 1e-5), rope.rotate(rms_norm(x, 1e-5), turn), atol=1e-5)
assert f"{math.sqrt(scout.head_width):.1f}" == "11.3" and not llama4.Config.maverick().qk_norm

# %% [markdown]
# The bound has a price. If one key of a full chunk has the highest score there is and the others have 0, how much of
# the weight does it get? Nine tenths in Scout, less than half in the small model, whose heads are narrow.

# %%
share = {}
for name, model in (("Scout", scout), ("tiny", config)):
    top = math.exp(math.sqrt(model.head_width))
    share[name] = top / (top + model.chunk - 1)
    print(f"{name:<6} {share[name]:.3f} of the weight, in a chunk of {model.chunk}")
assert f"{share['Scout']:.1f}" == "0.9" and share["tiny"] < 0.5 and f"{bound:.1f}" == "5.7"

# %% [markdown]
# ## A period of four
#
# Now the layers. `config.layers` spells them out. In the pictures a chunk is 4 positions long, a row is a query, a
# column a key, dark is seen. Three layers see their own chunk: position 8 begins a new one and sees itself alone,
# position 7, right before it, sees four. This is not a window that slides along. The fourth layer sees itself and
# everything before.

# %%
small = replace(config, chunk=4)
positions_BS = torch.arange(12)[None]
views = [mask(small, spec, positions_BS)[0] for spec in config.layers]
whole, panels = figure(9.5, 2.7, 1, 4)
for number, (axes, view) in enumerate(zip(panels, views, strict=True)):
    matrix(axes, view, highest=1.0)
    axes.set_title(f"layer {number}: {config.layers[number].position}, {config.layers[number].span}")
show(whole, "Three masks with blocks of 4 along the diagonal, and one full lower triangle.")

assert [spec.position for spec in config.layers] == ["rope", "rope", "rope", "nope"]
assert [int(views[0][position].sum()) for position in (7, 8)] == [4, 1] and int(views[3][8].sum()) == 9
nope = [number for number, spec in enumerate(scout.layers) if spec.position == "nope"]
assert nope == list(range(3, 48, 4)) and all(scout.layers[number].span == "all" for number in nope)

# %% [markdown]
# What can a token *know* after some layers? A layer passes on what its sources already knew, so the masks multiply.
# After three chunked layers nothing has left its chunk: chunked layers add depth, not reach. One NoPE layer then lets
# everything through, and what it brought in is at hand for the chunked layers of the next period. The pictures come out
# the same as the masks.

# %%
knows = torch.eye(12)
whole, panels = figure(9.5, 2.7, 1, 4)
for number, axes in enumerate(panels):
    knows = (views[number].float() @ knows > 0).float()
    matrix(axes, knows, highest=1.0)
    axes.set_title(f"known after layer {number}")
    assert torch.equal(knows.bool(), views[number])
show(whole, "What each position can know: blocks after layers 0 to 2, everything before after layer 3.")

# %% [markdown]
# The same on the trained model, by experiment. Its chunk is 384 positions. We write the names of 28 pictures in sixteen
# languages one after the other, change one token in the second chunk, and look where the model's vectors change, layer
# by layer. In the picture, no change at all is drawn at the bottom.

# %%
import json

table = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))
names = [name for entry in table.values() for name in entry["names"].values()]
assert len(names) == 28 * 16 and config.chunk == 384
ids = llm.tokenizer.encode("\n".join(names))[: 3 * config.chunk]
changed, place = list(ids), config.chunk + 100
changed[place] = (ids[place] + 7) % 3000  # some other word
states = {number: [] for number in range(len(layers))}
handles = [
    layer.register_forward_hook(lambda _, __, x_BSD, number=number: states[number].append(x_BSD))
    for number, layer in enumerate(layers)
]
llm.model(torch.tensor([ids]))
llm.model(torch.tensor([changed]))
for handle in handles:
    handle.remove()
change = {number: (a - b)[0].norm(dim=-1) for number, (a, b) in states.items()}
shapes(state_BSD=states[0][0], change_S=change[0])

# %%
whole, panels = figure(8, 4.2, 4, 1, sharex=True)
for number, axes in enumerate(panels):
    axes.plot(change[number].clamp(min=1e-7), color=BLUE, linewidth=0.6)
    logarithmic(axes, "y")
    for edge in range(0, len(ids) + 1, config.chunk):
        axes.axvline(edge, color=RED, linewidth=0.8, linestyle="--")
    axes.set_ylim(5e-8, 1e2)
    axes.set_title(f"length of the change after layer {number} ({config.layers[number].position})")
panels[-1].set_xlabel(f"position; token {place} was changed; dashed: chunks begin")
show(whole, "The change over the position: inside one chunk after layers 0 to 2, to the end after layer 3.")

end = 2 * config.chunk
for number, change_S in change.items():
    noise = 1e-4 * change_S.max()  # fp32: sums of other lengths round differently
    assert change_S[:place].max() < noise < change_S[place]
    assert (change_S[end:].max() < noise) == (config.layers[number].span == "chunk")

# %% [markdown]
# ## A layer without order
#
# To a NoPE layer its past is a bag. We take 64 vectors that layer 3 gets and feed them to the attention of every layer,
# then the same with all but the last in another order, and compare what the last one gets.
#
# How, then, can layer 3 tell "dog bites man" from "man bites dog"? The RoPE layers below have already written the
# neighbourhood into each vector.

# %%
x_BSD = states[2][0][:, :64]  # what layer 3 gets
shuffled_BSD = torch.cat((x_BSD[:, torch.randperm(63, generator=generator)], x_BSD[:, 63:]), dim=1)
step = Step((0,), (64,), 64, x_BSD.device)
effect = {}
for number, layer in enumerate(layers):
    first, second = (layer.attention(layer.attention_norm(x), step, None)[0, -1] for x in (x_BSD, shuffled_BSD))
    effect[number] = float((first - second).norm() / first.norm())
    print(f"layer {number} ({config.layers[number].position}): the last token's answer changes by {effect[number]:.1e}")
assert effect[3] < 1e-4 < 1e-2 < min(effect[number] for number in (0, 1, 2))

# %% [markdown]
# ## Turned inside the chunk
#
# A RoPE layer compares positions of one chunk only, and only their difference counts. So this package turns by the
# position *inside* the chunk, `position % chunk`. In exact arithmetic that changes nothing. In floating point it does:
# fp32 numbers near ten million are 1 apart, and the product with a frequency keeps only 24 bits, of which most go into
# whole turns.
#
# We take the angles between the first position of Scout's last chunk and all others in it, and compare them with fp64.
# Here is the worst error, once by the absolute position, as Meta's code and Hugging Face's turn, and once inside the
# chunk.

# %%
positions = torch.arange(scout.max_context - scout.chunk, scout.max_context)


def worst_angle(used: torch.Tensor) -> float:
    """Radians that the turn from the chunk's first position to any other is off, at most."""
    cos, sin = (part.double()[:, 0] for part in rope.rotation(used, scaled))
    found = torch.complex(cos, sin) * torch.complex(cos[0], -sin[0])
    exact = (positions - positions[0])[:, None].double() * scaled.double()
    return float((found * torch.polar(torch.ones_like(exact), -exact)).angle().abs().max())


absolute, inside = worst_angle(positions), worst_angle(positions % scout.chunk)
print(f"by absolute position {absolute:.2f} rad off, inside the chunk {inside:.5f} rad off")
assert absolute > 0.5 and inside < 3e-4
assert torch.tensor(1e7).nextafter(torch.tensor(math.inf)) == 10_000_001

near = torch.arange(config.chunk, config.chunk + 40)  # small positions: both ways give the same scores
freqs = rope.frequencies(32, config.rope_theta, config.rope_scaling)
assert (score_table(near, freqs) - score_table(near % config.chunk, freqs)).abs().max() < 1e-3

# %% [markdown]
# So positions enter only where they are small, and the layers that reach far have none, but for one factor that makes
# late queries longer. [Chapter 05](05-chunks-and-cache.ipynb) follows what chunks save in the cache,
# [chapter 06](06-ten-million-tokens.ipynb) what ten million tokens take, that factor included.
#
# ## Exercises
#
# **1.** How many tokens does pair 20 of Scout need for a full turn? Does the scaling touch it?
#
# <details><summary>Answer</summary>
#
# 2π · 500000^(40/128) = 379 tokens. That is below 8192, so it is a fast pair and stays as it is.
#
# </details>
#
# **2.** Token 20 000 of a prompt for Scout: how many keys does it see in layer 2, how many in layer 3?
#
# <details><summary>Answer</summary>
#
# Its chunk begins at 2 · 8192 = 16 384. Layer 2 is chunked: 20 000 − 16 384 + 1 = 3617 keys, itself included. Layer 3
# sees all 20 001.
#
# </details>

# %% [markdown]
# **3.** An implementation once put NoPE into layers 0, 4, 8 instead of 3, 7, 11. What does the very first layer then
# lose?
#
# <details><summary>Answer</summary>
#
# All order. Layer 0 gets bare embeddings, which hold no position, and a NoPE layer compares them as a bag: the last
# token gets the same from "dog bites man" as from "man bites dog". The cell below builds it from the trained weights.
#
# </details>

# %%
assert round(2 * math.pi / float(scaled[20])) == 379 and scaled[20] == plain[20]
for number, keys in ((2, 3617), (3, 20_001)):
    row = mask(scout, scout.layers[number], torch.arange(16_384, 20_001)[None])[0, -1]
    before = 16_384 if scout.layers[number].span == "all" else 0  # the two chunks that were left out
    assert int(row.sum()) + before == keys

wrong_place = Attention(config, LayerSpec("nope", "all", "moe"))
wrong_place.load_state_dict(layers[0].attention.state_dict())
x_BSD = layers[0].attention_norm(llm.model.decoder.embedding(torch.tensor([ids[:64]])))
order = torch.cat((torch.randperm(63, generator=generator), torch.tensor([63])))
first, second = (attention[0, -1] for attention in (wrong_place(x, step, None) for x in (x_BSD, x_BSD[:, order])))
assert torch.allclose(first, second, atol=1e-4)

# %% [markdown]
# ## Source
#
# - [`rope.frequencies`](../llama4/rope.py#L28), [`rope.scale_frequencies`](../llama4/rope.py#L37) and
#   [`rope.rotate`](../llama4/rope.py#L58): the turn.
# - [`attention.Rotary`](../llama4/attention.py#L65) and [`attention.NoPosition`](../llama4/attention.py#L92): the two kinds of
#   layer; [`Attention.project`](../llama4/attention.py#L57) calls one of them.
# - [`config.irope_layers`](../llama4/config.py#L192): the period of four; [`masks.chunked`](../llama4/masks.py#L30): the chunk.
# - [`hf._correct_stale_scaling`](../llama4/config_io/hf.py#L236): the trap and its warning.
# - [`attending.watched`](../llama4/evaluation/attending.py#L55): how this chapter looked inside.
