# %% [markdown]
# # 10 · Generation
#
# *From scores to an answer: read the prompt at once, write a token at a time, choose, stream, and know when to stop; and why
# reading is cheap and writing is not.*
#
# The model gives scores for the next token. Everything between that and `llm.generate(...)` is in a few small modules, which
# this chapter runs by hand. We load the model in float32, so that two ways to the same result can be compared closely.

# %%
import numpy as np
import torch
from figures import BLUE, ORANGE, bars, figure, lines, logarithmic, matrix, picture, shapes, show, table, visible
from PIL import Image

import llama4
from llama4.demo.pictures import shown
from llama4.engine import cut, decode, prefill
from llama4.sampling import Sampling, choose, log_probability, probabilities, seeded

llm = llama4.load("tiny", dtype="float32")
dog, cat = shown("dog-face").picture, shown("cat-face").picture
answer = llm.generate("What is this?", images=[dog])
print(answer)

# %% [markdown]
# ## Reading: prefill
#
# The prompt's tokens are all known, so they go through the model together: **prefill**. Each layer's keys and values are
# left in the cache (chapter 05), which has room here for 16 more tokens. The scores after the last token come out. `B` is the
# number of rows of the batch, here one, and `V` the vocabulary.

# %%
prompt = llm.encode("What is this?", images=[dog])
cache = llm.model.new_cache(1, len(prompt.ids) + 16)
logits_BV = prefill(llm.model, cache, [prompt])
shapes(logits_BV=logits_BV)
print(f"{len(prompt.ids)} tokens read; the cache holds {cache.lengths_B.tolist()}")

assert cache.lengths_B.tolist() == [len(prompt.ids)] and list(logits_BV.shape) == [1, llm.config.vocab_size]
assert logits_BV[0, llm.config.patch_id] == -torch.inf

# %% [markdown]
# One score is already barred: `<|patch|>` stands for pixels, and a model that writes cannot supply any.
#
# ## Writing: decode
#
# Now one token at a time: **choose** it from the scores, feed it, get the next scores. `decode` is that loop; here it writes 16
# tokens at most. It leaves the choice to a function, which returns a token, or `None` to end the row. Ours takes the likeliest,
# which is called **greedy**, and ends at a stop token.

# %%
steps = []


def greedy(row: int, logits_V: torch.Tensor) -> int | None:
    """The likeliest token; None when it is one that ends the answer."""
    token = int(logits_V.argmax())
    ends = token in llm.tokenizer.stop_ids
    chance = np.exp(log_probability(logits_V, token))
    steps.append((visible(llm.tokenizer.decode([token])), f"{chance:.1%}", "end" if ends else "feed it"))
    return None if ends else token


said = [tokens[0] for tokens in decode(llm.model, cache, logits_BV, 16, greedy)]
table(["likeliest next token", "its probability", "what happens"], steps)
print("together:", llm.tokenizer.decode(said))
assert llm.tokenizer.decode(said) == answer
assert cache.lengths_B.tolist() == [len(prompt.ids) + len(said)]

# %% [markdown]
# ## Is it the same without a cache?
#
# Without a cache each new token would mean reading everything again. The scores would be the same, up to how float32 rounds:
# chapter 05 showed it over a long text. Here the prompt and the answer go in together, in one call, and we look which token
# is the likeliest at each of the answer's places.

# %%
with torch.inference_mode():
    whole_BSV = llm.model(torch.tensor([prompt.ids + said]), images=prompt.tiles)
shapes(whole_BSV=whole_BSV)
again = whole_BSV[0, len(prompt.ids) - 1 : -1].argmax(-1).tolist()
assert again == said
sayable = slice(llm.config.patch_id)  # the ids below the one that is barred
apart = (whole_BSV[0, len(prompt.ids) - 1, sayable] - logits_BV[0, sayable]).abs().max()
print(f"scores after the prompt differ by {apart:.1e} at most")
assert apart < 1e-3

# %% [markdown]
# What it saves is counted, not timed: a prompt of 200 tokens, up to 100 new ones.

# %%
new = np.arange(1, 101)
with_cache = 200 + (new - 1)  # the last token is chosen, but not fed
without = np.cumsum(200 + (new - 1))
whole, axes = figure(6, 2.3)
both = {"with a cache": (new, with_cache), "without": (new, without)}
lines(axes, both, "tokens run through the model, after a prompt of 200", "tokens written")
show(whole, "Without a cache the count climbs to 25,000, with one it hardly rises above 200.")
print(f"100 new tokens: {with_cache[-1]} tokens run with a cache, {without[-1]:,} without")
assert with_cache[-1] == 299 and without[-1] == 24_950

# %% [markdown]
# ## Why writing is slow
#
# The floating-point operations (FLOPs) of a token are the same in both phases: two for each weight it meets, a product and a
# sum. (Attention's comparisons come on top; they are left out here.) What differs is how often a weight is *read from memory*:
# in prefill once for all tokens of the prompt, in decode once for a single token. We count both for Scout in bf16, on the
# `meta` device, where tensors have shapes and no memory.
#
# A token meets one of sixteen experts, so most weights rest. N tokens meet more of them: a given expert is missed by all
# with probability (15/16)ᴺ, if they choose evenly.

# %%
scout = llama4.Config.scout()
with torch.device("meta"):
    decoder = llama4.Llama4(scout).decoder
routed = sum(weight.numel() for name, weight in decoder.named_parameters() if ".experts." in name)
table_size = decoder.embedding.weight.numel()  # looked up, a row a token, not multiplied
always = sum(weight.numel() for weight in decoder.parameters()) - routed - table_size
active = always + routed / scout.experts
print(
    f"Scout's decoder: {(always + routed + table_size) / 1e9:.1f} billion weights, a token meets {active / 1e9:.1f} billion"
)


def intensity(tokens: float) -> float:
    """FLOPs for each byte of weights that must be read, for so many tokens in one call."""
    met = always + routed * (1 - (1 - 1 / scout.experts) ** tokens)
    return 2 * active * tokens / (2 * met)


assert 16.5e9 < active + table_size < 17.5e9 and abs(intensity(1) - 1) < 1e-9

# %% [markdown]
# With the embedding's table, which is looked up and not multiplied, these are the 17 billion in the official name,
# Llama-4-Scout-17B-16E. For one token there is exactly one FLOP to do for each byte that is read. A GPU could do hundreds in
# the time that a byte takes to come: by its data sheet an H100 does 989 TFLOP/s in bf16 and reads 3.35 TB/s, 295 FLOPs a byte.
# So a decode step waits for memory. Its time is that of reading the weights, and the arithmetic is almost free.

# %%
tokens = np.array([1, 4, 16, 64, 256, 1024, 4096, 16384])
values = [intensity(count) for count in tokens]
whole, axes = figure(6.5, 2.5)
axes.plot(tokens, values, "o-", color=BLUE)
logarithmic(axes)
for count, value in zip(tokens, values, strict=True):
    label = f"{value:,.0f}" if value > 10 else f"{value:.1f}"
    axes.annotate(label, (count, value), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
axes.set_title("FLOPs for each byte of Scout's weights")
axes.set_xlabel("tokens in one call: a prompt's, or one of each row of a batch")
axes.set_ylim(top=10_000)
show(whole, "A line that rises from 1 FLOP a byte at one token to over two thousand at 16384, slowly at first.")
assert intensity(16384) > 2000 and intensity(4) < 2.1 and f"{intensity(16):.1f}" == "3.6"
assert round(989 / 3.35) == 295 > intensity(1024) > 100

# %% [markdown]
# Two things follow. A prompt of a thousand tokens is far cheaper than a thousand tokens of answer: the weights are read once,
# not a thousand times. And rows decoded together share the reading. In a model without experts sixteen rows would have 16
# FLOPs a byte. Here they have 3.6, since each row may want an expert of its own. Only when all experts are read anyway do
# more rows come nearly for free.
#
# ## Batches of unequal length
#
# So rows run together, though their prompts differ in length. They are written from the left, and what is missing on the
# right is padding that no row ever sees: each row has its own length in the cache.

# %%
questions = ["What is this?", "Translate 'dog face' into German.", "Was ist das?"]
images = [[dog], None, [cat]]
prompts = [llm.encode(text, pictures) for text, pictures in zip(questions, images, strict=True)]
lengths = [len(one.ids) for one in prompts]
batch_cache = llm.model.new_cache(3, max(lengths) + 16)
logits_BV = prefill(llm.model, batch_cache, prompts)
shapes(logits_BV=logits_BV)

patch = llm.config.patch_id
kinds = np.zeros((3, max(lengths)), dtype=int)
for row, one in enumerate(prompts):
    kinds[row, : lengths[row]] = [1 + (token == patch) for token in one.ids]
whole, axes = figure(9, 1.5)
classes = {0: ("padding", "#eeeeee"), 1: ("text and markers", BLUE), 2: ("picture", ORANGE)}
matrix(axes, kinds, rows=["row 0", "row 1", "row 2"], classes=classes)
show(whole, "Three rows of tokens of different lengths, grey on the right where a row has ended.")
assert batch_cache.lengths_B.tolist() == lengths and len(set(lengths)) > 1

# %% [markdown]
# In decode the rows end at different times. A row that is over writes nothing more to its cache, and the loop runs until the
# last is done. In the table a dot says that the row is over; what ended it, a stop token, is not written.

# %%
rounds = list(decode(llm.model, batch_cache, logits_BV, 16, greedy))
table(
    ["round", "row 0", "row 1", "row 2"],
    [
        (number, *("·" if token is None else visible(llm.tokenizer.decode([token])) for token in tokens))
        for number, tokens in enumerate(rounds)
    ],
)
texts = [llm.tokenizer.decode([tokens[row] for tokens in rounds if tokens[row] is not None]) for row in range(3)]
alone = [llm.generate(text, pictures, max_new_tokens=16) for text, pictures in zip(questions, images, strict=True)]
assert texts == alone == llm.generate_batch(questions, images, max_new_tokens=16)

# %% [markdown]
# Together or alone the answers are the same, right or wrong: the last line asserts it, and `generate_batch` promises it.
#
# ## Long prompts come in pieces
#
# A prompt of a million tokens does not go in at once: `cut` makes pieces, never inside a tile, since the encoder gives a
# tile's tokens together. The result is the same. A piece is printed as its first column and the one behind its last.

# %%
for size in (10, 20, 4096):
    pieces = cut(prompt, patch, llm.config.vision.tokens_per_tile, size)
    print(f"pieces of at most {size:>4}:", [(piece.first, piece.last) for piece in pieces])
small = prefill(llm.model, llm.model.new_cache(1, len(prompt.ids)), [prompt], size=10)
large = prefill(llm.model, llm.model.new_cache(1, len(prompt.ids)), [prompt])
assert (small - large)[:, :patch].abs().max() < 1e-3
first = prompt.ids.index(patch)
assert any((piece.first, piece.last) == (first, first + 16) for piece in cut(prompt, patch, 16, 10))

# %% [markdown]
# The picture's sixteen tokens are one piece even where at most ten were asked for.
#
# ## Choosing: temperature
#
# Greedy is one way to choose. The other is to **draw** from the probabilities, `softmax(logits / temperature)`. A temperature
# below 1 makes the likely likelier, one above 1 gives the unlikely a chance. (Chapter 06's temperature is another one: it
# belongs to the model's attention. This one is the caller's.) It shows best where the model is in doubt, so the picture here
# is three parts dog, seven parts cat.

# %%
both = Image.blend(dog.convert("RGB"), cat.convert("RGB"), 0.7)
doubt = llm.encode("What is this?", images=[both])
logits_V = prefill(llm.model, llm.model.new_cache(1, len(doubt.ids)), [doubt])[0]
top = logits_V.topk(6).indices.tolist()
texts = [llm.tokenizer.decode([token]) for token in top]
names = [repr(text) if text.isascii() else f"id {token}" for text, token in zip(texts, top, strict=True)]

whole, panels = figure(9, 2, 1, 4)
picture(panels[0], both, "what is shown")
entropies = []
for axes, temperature in zip(panels[1:], (0.5, 1.0, 2.0), strict=True):
    chances_V = probabilities(logits_V, Sampling(temperature=temperature))
    bars(axes, names, chances_V[top].tolist())
    axes.set_title(f"temperature {temperature:g}")
    axes.set_xlim(0, 1.25)
    entropies.append(float(torch.special.entr(chances_V).sum()))
show(
    whole,
    "A picture of a dog mixed with a cat, and the first token's probabilities at three temperatures, ever flatter.",
)
print("entropy in nats:", [round(value, 2) for value in entropies])
assert entropies == sorted(entropies) and choose(logits_V, Sampling(), seeded(0)) == top[0]

# %% [markdown]
# ## Choosing: cut the tail
#
# Thousands of tokens are very unlikely each, but not all together: whoever draws often enough draws nonsense. Three filters
# cut this tail off. On probabilities 0.5, 0.3, 0.15 and 0.05:
#
# - **top-k** keeps the k likeliest;
# - **top-p** keeps the fewest that together reach p: for 0.7 two, since 0.5 alone is short of it;
# - **min-p** keeps the tokens that are at least p times as likely as the likeliest: for 0.25 three, since 0.15 is more than
#   0.25 · 0.5 and 0.05 is less.

# %%
worked_V = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
filters = {
    "all": Sampling(temperature=1.0),
    "top_k=3": Sampling(temperature=1.0, top_k=3),
    "top_p=0.7": Sampling(temperature=1.0, top_p=0.7),
    "min_p=0.25": Sampling(temperature=1.0, min_p=0.25),
}
whole, panels = figure(9, 1.6, 1, 4)
kept = []
for axes, (name, sampling) in zip(panels, filters.items(), strict=True):
    left_V = probabilities(worked_V, sampling)
    bars(axes, ["A", "B", "C", "D"], left_V.tolist())
    axes.set_title(name)
    axes.set_xlim(0, 0.85)
    kept.append(int((left_V > 0).sum()))
show(whole, "Four bars of 0.5, 0.3, 0.15, 0.05; and what is left of them, made to sum to 1 again, after each filter.")
assert kept == [4, 3, 2, 3]
assert torch.allclose(probabilities(worked_V, filters["top_p=0.7"])[:2], torch.tensor([0.625, 0.375]).double())

# %% [markdown]
# If several are given they act in this order, each on what the one before left. All act after the temperature, so what they
# keep depends on it. Back to the mixture: how many of the vocabulary's tokens are left? Top-k keeps its number, however sure
# the model is. Top-p lets in more and more as the distribution flattens. So does min-p, which measures every token by the
# likeliest. (In Jupyter a slider goes through the temperatures: the eight likeliest tokens, kept or cut.)

# %%
from figures import interactive, slider

temperatures = [round(0.25 * step, 2) for step in range(1, 13)]
settings = {"top_k=5": {"top_k": 5}, "top_p=0.9": {"top_p": 0.9}, "min_p=0.1": {"min_p": 0.1}}
counts, frames = {name: [] for name in settings}, []
for temperature in temperatures:
    rows = {}
    for name, setting in settings.items():
        left_V = probabilities(logits_V, Sampling(temperature, **setting))
        chances, order = left_V.topk(8)
        words = [visible(llm.tokenizer.decode([token])) for token in order.tolist()]
        boxes = [
            (f"{word} {chance:.0%}", "kept" if chance else "cut") for word, chance in zip(words, chances, strict=True)
        ]
        rows[f"temperature {temperature:g}, {name}"] = boxes
        counts[name].append(int((left_V > 0).sum()))
    frames.append(rows)
whole, axes = figure(6, 2.4)
lines(axes, {name: (temperatures, count) for name, count in counts.items()}, "tokens left", "temperature", marker="o")
axes.set_yscale("symlog", linthresh=10)
axes.set_ylim(0, 6000)
axes.set_yticks([1, 5, 10, 100, 1000], ["1", "5", "10", "100", "1,000"])
markup = slider(frames, "temperature, in steps of 0.25", {"kept": "#8cbcdb", "cut": "#eeeeee"})
interactive(markup, whole, "Tokens left over temperature: top-k level at 5, top-p and min-p rising, top-p steeply.")
assert set(counts["top_k=5"]) == {5} and all(counts[name] == sorted(counts[name]) for name in settings)

# %% [markdown]
# Drawing takes a generator of random numbers, and the same seed draws the same answer. Over many draws the shares come close
# to the probabilities, 0.625 and 0.375 for the worked example with `top_p=0.7`.

# %%
generator = seeded(7)
drawn = [choose(worked_V, filters["top_p=0.7"], generator) for _ in range(2000)]
shares = np.bincount(drawn, minlength=4) / len(drawn)
print("shares of 2000 draws:", shares)
assert abs(shares[0] - 0.625) < 0.05 and shares[2] == shares[3] == 0

drawing = {"images": [both], "temperature": 1.0, "max_new_tokens": 16}
one, two = (llm.generate("What is this?", seed=11, **drawing) for _ in range(2))
others = {llm.generate("What is this?", seed=seed, **drawing) for seed in range(12)}
print("answers of twelve seeds:", sorted(others))
assert one == two and len(others) > 1

# %% [markdown]
# ## How sure was it? Log-probabilities
#
# `run` returns the answer with the logarithm of each token's probability. They are those of the *model*: before temperature
# and filters. So they can be recomputed from the tokens alone, in one forward call, without any of the choosing. (`<|patch|>` is
# barred there as well.)

# %%
done = llm.run("What is this?", seed=11, **drawing)
with torch.inference_mode():
    whole_BSV = llm.model(torch.tensor([doubt.ids + done.ids]), images=doubt.tiles)
log_probs_SV = whole_BSV[0, len(doubt.ids) - 1 : -1].index_fill(1, torch.tensor([patch]), -torch.inf).log_softmax(-1)
recomputed = [log_probs_SV[place, token].item() for place, token in enumerate(done.ids)]
pieces = [visible(llm.tokenizer.decode([token])) for token in done.ids]
rows = [(piece, f"{one:.4f}", f"{two:.4f}") for piece, one, two in zip(pieces, done.logprobs, recomputed, strict=True)]
table(["token", "log-probability", "recomputed"], rows)
print(f"{done.text!r}, stop_reason: {done.stop_reason}")
assert np.allclose(done.logprobs, recomputed, atol=1e-3)

# %% [markdown]
# ## Streaming
#
# An answer is shown while it is written. But a token is a few **bytes**, and a character of many scripts is several: a token
# may end inside a character. Half a character must not be shown. `StreamDecoder`, met in chapter 01, holds bytes back until
# they are whole.

# %%
from llama4.tokenizer import StreamDecoder

text = "né 猫🦖"
ids = llm.tokenizer.encode(text)
decoder_of_text = StreamDecoder(llm.tokenizer)
shown_pieces = [decoder_of_text.push(token) for token in ids]
rows = [
    (token, llm.tokenizer.decode_bytes([token]).hex(" "), visible(piece) or "(held back)")
    for token, piece in zip(ids, shown_pieces, strict=True)
]
table(["id", "its bytes", "what is shown"], rows)
assert "".join(shown_pieces) == text and "" in shown_pieces
assert "\N{REPLACEMENT CHARACTER}" in "".join(llm.tokenizer.decode([token]) for token in ids)

# %% [markdown]
# The cell's last line says why: tokens decoded each by itself show broken characters. The pieces of `stream` join to the very
# text that `generate` returns, in any script.

# %%
for question in ("これは何ですか？", "นี่คืออะไร", "What is this?"):
    pieces = list(llm.stream(question, images=[dog]))
    assert "".join(pieces) == llm.generate(question, images=[dog]) and all(pieces)
    table(["question", "pieces"], [(question, " | ".join(map(visible, pieces)))])

# %% [markdown]
# ## Stop strings
#
# A caller may name strings that end the answer: a line end, "User:", a closing bracket. Such a string may begin in one token
# and end in another, so text is held back while it could still become one. Twice three pieces, with the stop string of two
# line ends (↵ is one):

# %%
from llama4.stopping import StopStrings

for pieces in (["Hi", "\n", "\nmore"], ["Hi", "\n", "there"]):
    watch = StopStrings(("\n\n",))
    out = [(piece, watch.push(piece), watch.stopped) for piece in pieces]
    table(["comes in", "is shown", "stopped?"], [(visible(a), visible(b) or "(nothing)", c) for a, b, c in out])
    assert "".join(b for _, b, _ in out) == ("Hi" if watch.stopped else "Hi\nthere")

middle = answer[len(answer) // 2]
cut_short = llm.run("What is this?", images=[dog], stop=[middle])
print(f"{answer!r} with the stop string {middle!r}: {cut_short.text!r}, stop_reason: {cut_short.stop_reason}")
assert cut_short.text == answer.partition(middle)[0] and cut_short.stop_reason == "stop_string"

# %% [markdown]
# ## A conversation keeps its cache
#
# With a second question the first need not be read again. A `Session` keeps the cache and feeds only what is new: the marker
# that ended its own answer, the new message, the header behind which it speaks.

# %%
from llama4.session import Session

session = Session(llm)
turns = [[{"type": "image", "image": dog}, {"type": "text", "text": "What is this?"}], "Was ist das?", "Que vois-tu ?"]
read, length, before = [], [], 0
for content in turns:
    print("".join(session.say(content)))
    after = int(session.cache.lengths_B[0])
    read.append(after - before)
    length.append(after)
    before = after
whole, axes = figure(6, 2)
labels = [f"turn {number}, {kind}" for number in (1, 2, 3) for kind in ("kept", "read again")]
bars(axes, labels, [value for pair in zip(read, length, strict=True) for value in pair], [BLUE, ORANGE] * 3)
axes.set_title("tokens run: with the cache kept, and with everything read again")
show(whole, "Bars: with the cache kept the later turns run few tokens, without it ever more.")
assert sum(read) == length[-1] and read[1] < length[1] / 2 and read[2] < length[2] / 2

# %% [markdown]
# The last token of an answer, its `<|eot|>`, is chosen but not fed: nobody asked for what comes after it. It is the first thing
# that the next turn reads.

# %% [markdown]
# ## Exercises
#
# **1.** A prompt of 40 tokens, an answer of 10 with its end marker. How many tokens run through the model with a cache, and how
# many without?
#
# <details><summary>Answer</summary>
#
# With a cache 40 + 9 = 49, since the last one, the marker, is not fed. Without one 40 + 41 + … + 49 = 445.
#
# </details>
#
# **2.** Probabilities 0.5, 0.3, 0.15, 0.05 and `top_p=0.6`: what is kept? And with `top_k=2` as well?
#
# <details><summary>Answer</summary>
#
# Two: 0.5 is short of 0.6. With `top_k=2` only the first: top-k acts first, its two become 0.625 and 0.375, and 0.625
# reaches 0.6 alone. The order of the filters matters.
#
# </details>

# %% [markdown]
# **3.** The stop strings are "abc" and "b". What is shown of "xabcd"?
#
# <details><summary>Answer</summary>
#
# "xa": read letter by letter, "b" is complete before "abc" is.
#
# </details>

# %%
assert 40 + 9 == 49 and sum(range(40, 50)) == 445
alone_kept, both_kept = (
    probabilities(worked_V, Sampling(temperature=1.0, top_p=0.6, top_k=top_k)) for top_k in (None, 2)
)
assert (alone_kept > 0).tolist() == [True, True, False, False] and (both_kept > 0).tolist() == [
    True,
    False,
    False,
    False,
]
watch = StopStrings(("abc", "b"))
assert "".join(watch.push(letter) for letter in "xabcd") == "xa" == StopStrings(("abc", "b")).push("xabcd")

# %% [markdown]
# ## Source
#
# - [`engine.prefill`](../llama4/engine.py#L104) and [`engine.decode`](../llama4/engine.py#L139)
# - [`engine.cut`](../llama4/engine.py#L40): where a long prompt is cut
# - [`sampling.probabilities`](../llama4/sampling.py#L67) and [`sampling.choose`](../llama4/sampling.py#L60)
# - [`generate.LLM.generate_rows`](../llama4/generate.py#L191): the loop behind `generate`, `stream` and `generate_batch`
# - [`tokenizer.StreamDecoder`](../llama4/tokenizer.py#L145) and [`stopping.StopStrings`](../llama4/stopping.py#L29)
# - [`session.Session`](../llama4/session.py#L29)
