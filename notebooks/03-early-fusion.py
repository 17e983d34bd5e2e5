# %% [markdown]
# # 03 · Early fusion
#
# *Pictures and words share one stream from the first layer on; swap the picture, keep the words, and watch the answer
# follow.*
#
# There are two ways to make a language model see. The older one leaves the language model as it is and adds side doors:
# extra attention layers, between the others, that look at the picture (**late** fusion; the vision models of Llama 3.2
# do this). Llama 4's way is **early** fusion: the picture's vectors are put into the row of tokens before the first
# layer, and from there on no layer knows which of them were words. No new kind of layer is needed, and text and
# pictures can be mixed in any order.
#
# Chapter 01 made the row of ids, chapter 02 the vectors of a picture. Here they meet. In the shapes `B` is the number
# of conversations (1), `S` the tokens of each, `D` the model's width, the numbers of each token.

# %%
import math

import torch
from figures import GREEN, bars, figure, matrix, picture, shapes, show, strip, visible
from PIL import Image

import llama4
from llama4.cache import Step
from llama4.demo.pictures import shown

llm = llama4.load("tiny", dtype="float32")
model, tokenizer, config = llm.model, llm.tokenizer, llm.config
dog, rocket = shown("dog-face").picture, shown("rocket").picture
prompt = llm.encode("What is this?", images=[dog])
tokens_BS = torch.tensor([prompt.ids])
patch_BS = tokens_BS == config.patch_id
shapes(tokens_BS=tokens_BS, patch_BS=patch_BS, tiles=prompt.tiles)
assert patch_BS.sum() == len(prompt.tiles) * config.vision.tokens_per_tile == 16

# %% [markdown]
# ## One row of vectors
#
# First, the table of embeddings gives each id its vector. All `<|patch|>` ids are equal, and so are their vectors. Then
# `embed` replaces just these by the projected vectors of the picture, first patch to first place and so on.
#
# `embed` wants to know which positions the tokens of this call have. That is a `Step`; chapter 05 needs it. Here it is
# one row from position 0 on.

# %%
step = Step(starts=(0,), counts=(tokens_BS.shape[1],), width=tokens_BS.shape[1], device=tokens_BS.device)
with torch.inference_mode():
    words_BSD = model.decoder.embedding(tokens_BS)
    fused_BSD = model.embed(tokens_BS, prompt.tiles, step)
    from_picture = model.fusion.projection(model.vision(prompt.tiles))
shapes(words_BSD=words_BSD, from_picture=from_picture, fused_BSD=fused_BSD)

whole, (left, right) = figure(9.5, 3.3, 1, 2)
for axes, x_BSD, title in ((left, words_BSD, "after the embedding"), (right, fused_BSD, "after the fusion")):
    scaled = x_BSD[0, :, :24] / x_BSD[0].std(dim=-1, keepdim=True)
    matrix(axes, scaled.T, signed=True, highest=2.5)
    axes.set(ylabel=f"first 24 of {config.width} numbers", title=f"{title}, a column a token")
show(whole, "Two maps, a column a token: sixteen equal columns left, sixteen different ones right.")
assert torch.equal(fused_BSD[~patch_BS], words_BSD[~patch_BS])  # words stay as they were
assert torch.allclose(fused_BSD[patch_BS], from_picture[0], atol=1e-5)  # places hold the picture, in order
assert (words_BSD[patch_BS] == words_BSD[patch_BS][0]).all()

# %% [markdown]
# (Each column is divided by its spread for the drawing, since picture and word vectors need not have the same length.)
# The sixteen places stand side by side in both maps: equal on the left, different on the right. The vector that the
# table holds for `<|patch|>` itself is never used. Make it a thousand times as large, and no score changes:

# %%
with torch.inference_mode():
    before = model(tokens_BS, images=prompt.tiles)
    model.decoder.embedding.weight[config.patch_id] *= 1000
    after = model(tokens_BS, images=prompt.tiles)
    model.decoder.embedding.weight[config.patch_id] /= 1000
print(f"largest change of a score: {(after - before).abs().max():.4f}")
assert torch.allclose(before, after, atol=1e-4)

# %% [markdown]
# ## Swap the picture
#
# The same words, six pictures. For each, how likely does the model find each of six names as the whole answer, its end
# marker included? The probability of an answer is the product of its tokens' probabilities, each given all before it. A
# product of many small numbers soon becomes too small for a computer, so the logarithms are added instead.
#
# One forward pass gives them all: the scores at position *i* are about token *i* + 1.


# %%
@torch.inference_mode()
def log_chance(prompt: llama4.chat.Prompt, answer: str) -> float:
    """Natural logarithm of the probability that the model answers just this."""
    ids = [*tokenizer.encode(answer), tokenizer.eot_id]
    tokens_BS = torch.tensor([prompt.ids + ids])
    logits_BSV = model(tokens_BS, images=prompt.tiles)
    chances = logits_BSV[0, len(prompt.ids) - 1 : -1].log_softmax(-1)
    return chances[torch.arange(len(ids)), torch.tensor(ids)].sum().item()


files = ["dog-face", "rocket", "red-apple", "guitar", "elephant", "key"]
names = [shown(file).names["en"] for file in files]
prompts = [llm.encode("What is this?", images=[shown(file).picture]) for file in files]
chances = torch.tensor([[log_chance(prompt, name) for name in names] for prompt in prompts]).exp()

whole, axes = figure(5, 4)
matrix(axes, chances, rows=names, columns=names, numbers=True, highest=1.0)
axes.set_title("probability of a name (column), given a picture (row)")
show(whole, "A matrix of six pictures by six names with its large numbers on the diagonal.")
assert chances[0].argmax() == 0  # the dog is a dog
assert chances.diagonal().sum() > 10 * (chances.sum() - chances.diagonal().sum())

# %% [markdown]
# The words are the same in all six rows, so whatever differs between them comes from the picture. For two of them, here
# are the likeliest first tokens of the answer:

# %%
whole, panels = figure(9, 2, 1, 4, width_ratios=[1, 2.2, 1, 2.2])
for (left, right), image in zip((panels[:2], panels[2:]), (dog, rocket), strict=True):
    prompt = llm.encode("What is this?", images=[image])
    with torch.inference_mode():
        logits_B1V = model(torch.tensor([prompt.ids]), images=prompt.tiles, logits="last")
    chance, ids = logits_B1V[0, 0].softmax(-1).topk(4)
    picture(left, image)
    bars(right, [visible(tokenizer.decode([token])) for token in ids.tolist()], chance.tolist(), GREEN)
    right.set_xlim(0, 1.2)
show(whole, "The dog and the rocket, each with the four likeliest first tokens of the answer.")
answers = [llm.generate("What is this?", images=[image]) for image in (dog, rocket)]
print(answers)
assert answers[0] == "dog face" and answers[0] != answers[1]

# %% [markdown]
# ## Which part of the picture?
#
# Sixteen tokens, sixteen squares. Cover one square at a time with grey, and see how far the probability of *dog face*
# falls. That needs nothing of the model but its scores.

# %%
covered = []
for square in range(16):
    y, x = divmod(square, 4)
    image = dog.copy()
    image.paste((128, 128, 128), (x * 16, y * 16, x * 16 + 16, y * 16 + 16))
    covered.append(log_chance(llm.encode("What is this?", images=[image]), "dog face"))
whole_chance = log_chance(prompts[0], "dog face")
loss = (whole_chance - torch.tensor(covered)).reshape(4, 4)

whole, (left, right) = figure(6, 2.6, 1, 2)
picture(left, dog)
matrix(right, loss.clamp(min=0), numbers=True)
right.set_title("loss of log probability")
show(whole, "The dog, and a 4 x 4 map of how much the answer suffers when that square is covered.")
assert loss.max() > 0 and loss.shape == (4, 4) and round(math.log(2), 2) == 0.69

# %% [markdown]
# A loss of 0.69 halves the probability. (Squares without any loss, or where covering even helps, are drawn as 0.)
#
# ## The stream runs one way
#
# The decoder's attention is **causal**: a token sees itself and what stands before it, never what comes after. The
# picture stands before the question here. So the picture's tokens cannot know what will be asked: the scores at their
# positions are the same for any question. The question's tokens see the picture. We ask in English and in German, with
# the picture before the question and behind it:


# %%
def picture_scores(parts: list[dict]) -> torch.Tensor:
    """Scores at the picture's tokens of a message of these parts."""
    asked = llama4.chat.encode(tokenizer, [{"role": "user", "content": parts}], config.vision)
    asked_BS = torch.tensor([asked.ids])
    with torch.inference_mode():
        return model(asked_BS, images=asked.tiles)[asked_BS == config.patch_id]


image = {"type": "image", "image": dog}
questions = [{"type": "text", "text": text} for text in ("What is this?", "Was ist das?")]
first = [picture_scores([image, question]) for question in questions]
last = [picture_scores([question, image]) for question in questions]
shapes(picture_scores=first[0])
for title, (one, other) in (("picture first", first), ("question first", last)):
    print(f"{title}: largest difference at the picture's tokens {(one - other).abs().max():.4f}")
assert torch.allclose(*first, atol=1e-3)
assert (last[0] - last[1]).abs().max() > 0.01

# %% [markdown]
# With the question in front the picture's tokens change: from the decoder's first layer on they are read *in the light
# of the question*. The vectors that come out of the vision encoder never are.
#
# ## Several pictures
#
# A message may hold any number of pictures, each where it belongs in the text. Their tiles are handed over in one
# batch, and fill the places in the order of the stream: the first tile the first group of `<|patch|>` ids, and so on.

# %%
parts = [{"type": "image", "image": dog}, {"type": "text", "text": " or "}, {"type": "image", "image": rocket}]
pair = llama4.chat.encode(tokenizer, [{"role": "user", "content": parts}], config.vision)
special = set(tokenizer.special_tokens.values())
kinds = ["picture" if i == config.patch_id else "special" if i in special else "text" for i in pair.ids]
show(strip([visible(tokenizer.decode([i])) for i in pair.ids], kinds), "A prompt with two pictures and a word between.")

pair_BS = torch.tensor([pair.ids])
step = Step((0,), (len(pair.ids),), len(pair.ids), pair_BS.device)
with torch.inference_mode():
    places = model.embed(pair_BS, pair.tiles, step)[pair_BS == config.patch_id]
    alone = [model.fusion.projection(model.vision(llm.encode("?", images=[i]).tiles))[0] for i in (dog, rocket)]
shapes(tiles=pair.tiles, places=places)
assert torch.allclose(places[:16], alone[0], atol=1e-4) and torch.allclose(places[16:], alone[1], atol=1e-4)
assert (places[:16] - places[16:]).abs().max() > 0.1

# %% [markdown]
# Tiles and places must match exactly, and a mistake is an error, not a silent shift of all that follows:

# %%
try:
    model(pair_BS, images=pair.tiles[:1])
    message = ""
except llama4.InputError as error:
    message = str(error)
print(message)
assert "2 groups of 16" in message and "hold 1 tiles" in message

# %% [markdown]
# ## Video
#
# A video is a few still frames, each a picture of one tile. Which frames is left to the caller. This package cuts the
# video into as many equal stretches as frames are wanted, and takes the middle of each: of 20 frames and 4 wanted,
# numbers 2, 7, 12 and 17, counted from 0. Here a rocket rises for 20 frames; below are the four that are taken, and
# they become a prompt.

# %%
from llama4.video import frames, middles

film = []
for number in range(20):
    film.append(Image.new("RGB", (64, 64), "white"))
    film[-1].paste(rocket, (0, 56 - 6 * number))
taken = frames(film, count=4)
sheet = Image.new("RGB", (20 * 68, 140), "#dddddd")
for number, frame in enumerate(film):
    sheet.paste(frame, (number * 68 + 2, 2))
    if number in middles(20, 4):
        sheet.paste(frame, (number * 68 + 2, 74))
whole, axes = figure(9.5, 1.3)
picture(axes, sheet)
axes.set_xticks([number * 68 + 34 for number in range(20)], range(20))
show(whole, "Twenty frames of a rising rocket, and below the four that are taken.")
assert middles(20, 4) == [2, 7, 12, 17]
assert all(one.tobytes() == film[number].tobytes() for one, number in zip(taken, middles(20, 4), strict=True))

# %%
content = [{"type": "video", "video": film, "frames": 4}, {"type": "text", "text": "What is this?"}]
video = llama4.chat.encode(tokenizer, [{"role": "user", "content": content}], config.vision)
shapes(tiles=video.tiles)
per_frame = len(llama4.chat.image_tokens(tokenizer, 1, 1, config.vision.tokens_per_tile))
print(f"{len(video.ids)} tokens, {per_frame} a frame")
assert len(video.tiles) == 4 and per_frame == 16 + 3
assert video.ids.count(config.image_start_id) == 4 and video.ids.count(config.patch_id) == 4 * 16

# %% [markdown]
# To the model a video is thus nothing but several pictures in a row: it tells their order from where they stand in the
# stream. How often our small model is right about several pictures, its [model card](../llama4/assets/tiny/README.md)
# says.
#
# ## Exercises
#
# **1.** Does the embedding of `<|patch|>` learn anything in training?
#
# <details><summary>Answer</summary>
#
# No. Its vectors are replaced before the first layer, so the loss does not depend on them and their gradient is zero.
#
# </details>

# %% [markdown]
# **2.** How many one-tile pictures, and nothing else, fit into a context of 8192 tokens, for the small model and for
# one with Scout's 144 tokens a tile?
#
# <details><summary>Answer</summary>
#
# A picture of one tile costs its patches and three markers: 8192 / 19 gives 431, 8192 / 147 gives 55.
#
# </details>
#
# **3.** In a batch of two prompts of different length, one with a picture: whose row does its tile go to?
#
# <details><summary>Answer</summary>
#
# To whichever row has the `<|patch|>` ids. Places are counted row by row through the whole batch; padding counts for
# nothing.
#
# </details>

# %%
image_BSD = model.embed(
    tokens_BS, prompts[0].tiles, Step((0,), (tokens_BS.shape[1],), tokens_BS.shape[1], tokens_BS.device)
)
(gradient_VD,) = torch.autograd.grad(image_BSD.square().sum(), model.decoder.embedding.weight)
assert (gradient_VD[config.patch_id] == 0).all() and (gradient_VD[config.image_start_id] != 0).any()
assert (8192 // 19, 8192 // 147) == (431, 55) and llama4.Config.scout().vision.tokens_per_tile + 3 == 147
together = llm.generate_batch(["What?", "What is this?"], images=[None, [dog]])
assert together[1] == "dog face"

# %% [markdown]
# ## Source
#
# - [`fusion.Fusion`](../llama4/fusion.py#L21): one line of it is early fusion;
#   [`fusion.check_groups`](../llama4/fusion.py#L36).
# - [`model.Llama4.embed`](../llama4/model.py#L75) and [`model.Llama4.forward`](../llama4/model.py#L40).
# - [`messages.fill_images`](../llama4/messages.py#L57): which picture belongs to which part of a message.
# - [`video.frames`](../llama4/video.py#L40), [`video.middles`](../llama4/video.py#L67).
