# %% [markdown]
# # 00 · A tour
#
# *The whole model in a few minutes: a picture and a question go in, a name comes out, and you see every station on
# the way.*
#
# Llama 4 is a language model of Meta's, published in 2025 in two sizes, Scout and Maverick. Three ideas set it apart
# from Llama 3: pictures join the text as tokens of the same stream (**early fusion**); most attention layers see only a
# stretch of the text, and the others are told no positions (**iRoPE**); and each token runs a small part of the weights
# (a **mixture of experts**).
#
# This repository is that architecture in plain PyTorch. The package carries a model with all of its parts, trained
# here, small enough for a laptop. It knows one thing: the names of emoji, in sixteen languages. We ask it. In the code,
# `figures` is the file beside this one that draws, and `llama4` is the package.

# %%
import torch
from figures import BLUE, bars, cut_lines, figure, matrix, picture, shapes, show, strip, visible

import llama4
from llama4.demo.pictures import shown

llm = llama4.load("tiny")
dog = shown("dog-face").picture  # drawn by an artist whose drawings the model was never trained on
answer = llm.generate("What is this?", images=[dog])

print(answer)
assert answer == "dog face"

# %% [markdown]
# ## The picture becomes tokens
#
# A picture is cut into square **tiles**, a tile into **patches**, and each 2 × 2 square of patches becomes one token.
# This picture is just one tile of 64 × 64 pixels: 64 patches of 8 × 8 pixels, 16 tokens. (Scout's tiles are 336 pixels
# wide and become 144 tokens.)

# %%
vision = llm.config.vision
whole, (left, middle, right) = figure(7.5, 2.6, 1, 3)
picture(left, dog, f"one tile, {vision.tile_side} × {vision.tile_side} pixels")
picture(middle, dog, f"{vision.patches} patches")
cut_lines(middle, vision.grid, vision.grid, vision.patch_side, numbered=False)
picture(right, dog, f"{vision.tokens_per_tile} tokens")
cut_lines(right, vision.grid // vision.shuffle, vision.grid // vision.shuffle, vision.patch_side * vision.shuffle, BLUE)
show(whole, "A dog's face, the same cut into 8 x 8 patches, and into 4 x 4 tokens.")

assert dog.size == (64, 64) and (vision.patches, vision.tokens_per_tile) == (64, 16)
scout = llama4.Config.scout()
assert (scout.vision.tile_side, scout.vision.tokens_per_tile) == (336, 144)

# %% [markdown]
# ## One stream
#
# The question becomes tokens too, and all of them stand in one row: **special** tokens, which mark who speaks and where
# a picture stands; the picture's places; and text, cut into words or parts of words. `␣` is a space and `↵` a line end.
# A token is an integer, its **id**; the number under each box is that id. What the picture's places hold is filled in
# by the next station.
#
# The capital letters that end a tensor's name are its shape: `tokens_BS` is `[B, S]`, where `B` counts conversations
# and `S` tokens. [The notation](../docs/notation.md) lists all letters.

# %%
prompt = llm.encode("What is this?", images=[dog])
pieces = [llm.tokenizer.decode([token]) for token in prompt.ids]


def kind(token: int) -> str:
    """What sort of token an id is."""
    if token == llm.config.patch_id:
        return "picture"
    return "special" if token in llm.tokenizer.special_tokens.values() else "text"


show(
    strip(list(map(visible, pieces)), list(map(kind, prompt.ids)), below=prompt.ids),
    "The prompt's tokens and their ids.",
)
tokens_BS = torch.tensor([prompt.ids])
shapes(tokens_BS=tokens_BS, tiles=prompt.tiles)
assert prompt.ids.count(llm.config.patch_id) == 16

# %% [markdown]
# ## From embeddings to scores
#
# Each id is looked up in a table of vectors; the vector is the token's **embedding**. At the picture's places the
# vectors come from the **vision encoder** instead. From there on all tokens are alike. They pass through the layers,
# and from the last token's vector comes a score, its **logit**, for every token that could be next.
#
# In the shapes below `D` counts the numbers of a token's vector and `V` the tokens of the vocabulary. Only the last
# token's scores are asked for, hence `1` in place of `S`.

# %%
with torch.inference_mode():
    words_BSD = llm.model.decoder.embedding(tokens_BS)
    picture_tokens = llm.model.fusion.projection(llm.model.vision(prompt.tiles))  # brought to the same width, D
    logits_B1V = llm.model(tokens_BS, images=prompt.tiles, logits="last")
shapes(words_BSD=words_BSD, picture_tokens=picture_tokens, logits_B1V=logits_B1V)
assert words_BSD.shape[-1] == picture_tokens.shape[-1] == llm.config.width

chances, ids = logits_B1V[0, 0].softmax(-1).topk(5)
likely = [visible(llm.tokenizer.decode([token])) for token in ids.tolist()]
whole, axes = figure(5, 1.8)
bars(axes, [repr(token) for token in likely], chances.tolist())
axes.set_title("the five most likely next tokens, and their probability")
show(whole, "Bars: the five likeliest tokens, the beginning of the answer on top.")
assert answer.startswith(likely[0]) and chances[0] > 0.8  # it is sure of its dog

# %% [markdown]
# The model writes the likeliest token, reads it as one more token of the stream, and goes on until it writes the marker
# `<|eot|>`, end of turn.

# %% [markdown]
# ## The layers
#
# A **layer** lets tokens look at each other (attention), and then works on each by itself (feed-forward). The
# configuration spells every layer out; below is a line for each. `rope chunk moe` is a layer that knows where a token
# stands (RoPE) and sees only its own stretch of the text, its **chunk**. `nope all moe` has no positions (NoPE) and
# sees everything before it. `moe` is the mixture of experts. Every fourth layer is a NoPE layer, in Scout as here.
#
# In the picture a row is the token that looks, the query, and a column the token that is looked at, the key. The chunk
# drawn is 4 tokens long; the small model's is 384 and Scout's 8192.

# %%
for number, layer in enumerate(llm.config.layers):
    print(number, layer.position, layer.span, layer.ffn)

positions = torch.arange(12)[None]
whole, (left, right) = figure(7, 2.6, 1, 2)
classes = {0: ("hidden", "#eeeeee"), 1: ("seen", BLUE)}
matrix(left, llama4.masks.chunked(positions, positions, chunk=4)[0], classes=classes)
left.set(title="a chunked layer, chunk of 4", ylabel="query", xlabel="key")
matrix(right, llama4.masks.causal(positions, positions)[0], classes=classes)
right.set(title="a layer that sees everything", ylabel="query", xlabel="key")
show(whole, "Two masks of 12 tokens: blocks of 4 along the diagonal, and a full lower triangle.")

assert [layer.position for layer in llm.config.layers] == ["rope", "rope", "rope", "nope"]
assert [number for number, layer in enumerate(scout.layers) if layer.position == "nope"] == [*range(3, 48, 4)]
assert (llm.config.chunk, scout.chunk) == (384, 8192)

# %% [markdown]
# ## The experts
#
# Each layer of this model has eight small networks, the **experts**, and a **router** that sends each token to one of
# them. (A ninth, the **shared expert**, works on every token.) Here are the experts that the picture's sixteen tokens
# go to, layer by layer; the number in a square is the expert's.

# %%
from llama4.evaluation.figure import routing_panel
from llama4.evaluation.routing import patch_experts

chosen = patch_experts(llm, dog)  # layer -> expert of each of the 4 x 4 tokens
whole, panels = figure(9, 2.5, 1, len(chosen))
for axes, (layer, experts) in zip(panels, chosen.items(), strict=True):
    routing_panel(axes, dog, experts)
    axes.set_title(f"layer {layer}")
show(whole, "The picture four times, its sixteen tokens in the colours and with the numbers of their experts.")

assert all(experts.shape == (4, 4) for experts in chosen.values())
assert any(experts.unique().numel() > 1 for experts in chosen.values()) and llm.config.experts == 8

# %% [markdown]
# ## The same code, the real size
#
# Nothing in the package knows that this model is small. Configuration and weights are all that differs, and PyTorch can
# build even Scout without memory for its weights: on the `meta` device a tensor has a shape and no numbers. Scout has
# 109 billion parameters, more than ten thousand times as many as the model here.

# %%
with torch.device("meta"):
    models = {"tiny": llama4.Llama4(llm.config), "Scout": llama4.Llama4(scout)}

parameters = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
for name, count in parameters.items():
    config = models[name].config
    print(
        f"{name:<6} {count:>15,} parameters  {len(config.layers)} layers of width {config.width}, {config.experts} experts"
    )

assert parameters["Scout"] == 108_641_793_536
assert parameters["Scout"] > 10_000 * parameters["tiny"]

# %% [markdown]
# ## Where to go next
#
# <!-- chapters -->
# - [00 · A tour](00-tour.ipynb): The whole model in a few minutes: a picture and a question go in, a name comes out,
#   and you see every station on the way.
# - [01 · Text to ids](01-text-to-ids.ipynb): Any text in any script becomes a row of integers and comes back
#   unchanged; markers that no user can type say who speaks.
# - [02 · Pictures to tiles to patches](02-pictures-to-patches.ipynb): A picture of any size becomes square tiles, a
#   tile becomes patches, four patches become one token; you follow every pixel and every separator.
# - [03 · Early fusion](03-early-fusion.ipynb): Pictures and words share one stream from the first layer on; swap the
#   picture, keep the words, and watch the answer follow.
# - [04 · RoPE and NoPE](04-rope-and-nope.ipynb): Where a token stands: three layers of four turn their queries and
#   keys by the position and look no further than their chunk, the fourth has no positions and sees everything.
# - [05 · Chunks and the cache](05-chunks-and-cache.ipynb): What the model remembers between two tokens it writes, why
#   three layers of four need only one chunk of it, and what goes wrong when a decode step forgets the chunk.
# - [06 · Ten million tokens](06-ten-million-tokens.ipynb): What a context of ten million tokens asks of attention and
#   of memory, what the temperature is for, and an experiment on whether models without positions really look further
#   than they were trained to.
# - [07 · Mixture of experts](07-mixture-of-experts.ipynb): One token, one expert of many: how a router chooses, why
#   its score goes in and not out, who takes which words and which parts of a picture, and what is lost when an expert
#   is gone.
# - [08 · The whole model, and parity](08-parity.ipynb): Every part at once, and how we know that its numbers are
#   right: two reference programs, a ladder of comparisons from one operation to the whole, and 28 mistakes made on
#   purpose.
# - [09 · Official weights](09-official-weights.ipynb): Two layouts of the same numbers: what each weight is called,
#   how it is cut and stacked, a checkpoint taken there and back without losing a bit, and where the bytes of Scout
#   and Maverick lie.
# - [10 · Generation](10-generation.ipynb): From scores to an answer: read the prompt at once, write a token at a
#   time, choose, stream, and know when to stop; and why reading is cheap and writing is not.
# - [11 · The grouped matmul](11-grouped-matmul.ipynb): One matrix product with another weight for every group of
#   rows: from a loop, to a tile, to a kernel whose programs stay; run here line by line, in Triton's interpreter.
# - [12 · Training](12-training.ipynb): How the small model came to know its names: drawings that never look the same
#   twice, sixteen stages, trees of questions, two optimisers, and an artist kept out of sight. With a live run, from
#   nothing, in seconds.
# <!-- end -->

# %% [markdown]
# ## Exercises
#
# **1.** Ask for the name in another language. Which of the prompt's tokens change?
#
# <details><summary>Answer</summary>
#
# Ask `llm.generate("Was ist das?", images=[dog])`. Only the question's tokens change. The markers and the sixteen
# places of the picture stay, and so do the picture's vectors, which are computed without knowing the question.
#
# </details>
#
# **2.** A chunked layer with a chunk of 4 reads 12 tokens. How many (query, key) pairs does it see, and how many does a
# layer that sees everything?
#
# <details><summary>Answer</summary>
#
# A chunk of 4 has 1 + 2 + 3 + 4 = 10 pairs, three chunks have 30. Without chunks there are 1 + 2 + … + 12 = 78.
#
# </details>

# %% [markdown]
# **3.** How many tokens would the 64 × 64 dog be for Scout?
#
# <details><summary>Answer</summary>
#
# 144 patch tokens: the picture is enlarged to one tile of 336 × 336 pixels.
#
# </details>

# %%
german = llm.encode("Was ist das?", images=[dog])
assert torch.equal(german.tiles, prompt.tiles)
question = prompt.ids.index(llm.config.image_end_id) + 1
after = prompt.ids[prompt.ids.index(llm.tokenizer.eot_id) :]
assert german.ids[:question] == prompt.ids[:question] and german.ids[-len(after) :] == after
assert german.ids != prompt.ids
assert llama4.masks.chunked(positions, positions, chunk=4).sum() == 30
assert llama4.masks.causal(positions, positions).sum() == 78
tiles, (rows, columns) = llama4.image.tiles(dog, scout.vision)
assert (rows, columns) == (1, 1) and len(tiles) * scout.vision.tokens_per_tile == 144

# %% [markdown]
# ## Source
#
# - [`config.LayerSpec`](../llama4/config.py#L26) and [`config.Config`](../llama4/config.py#L83): what a model is, one
#   row a layer.
# - [`model.Llama4.forward`](../llama4/model.py#L40): tokens and tiles in, scores out.
# - [`generate.LLM.generate`](../llama4/generate.py#L76): the loop that asks for one token after the other.
# - [`masks.py`](../llama4/masks.py): who may look at whom.
