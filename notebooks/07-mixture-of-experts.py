# %% [markdown]
# # 07 · Mixture of experts
#
# *One token, one expert of many: how a router chooses, why its score goes in and not out, who takes which words and
# which parts of a picture, and what is lost when an expert is gone.*
#
# Most of a transformer's weights sit in its feed-forward networks, and a **dense** model runs every token through all of
# them. A mixture of experts (MoE) keeps many feed-forward networks side by side, the **experts**, and runs each token
# through one or a few. So the weights can grow many times over, while the work for a token stays what it was.
#
# Llama 4's version has three parts. A **router** scores the experts for a token. The one with the highest score runs:
# the **routed expert**. A **shared expert** runs for every token, whatever the router says. The two outputs are added.
#
# First the sizes: all parameters, the share of them that lies in routed experts, and the share that one text token runs
# through, with a single routed expert in a MoE layer and without the vision encoder.

# %%
import json

import torch
import torch.nn.functional as F
from einops import rearrange
from figures import BLUE, ORANGE, figure, interactive, matrix, picture, routes, shapes, show, table, visible

import llama4
from llama4.demo.pictures import FOLDER, shown
from llama4.inspect import count_parameters

torch.set_grad_enabled(False)  # until the section on training
llm = llama4.load("tiny", dtype="float32")
scout, maverick = llama4.Config.scout(), llama4.Config.maverick()
for name, config in {"tiny": llm.config, "Scout": scout, "Maverick": maverick}.items():
    count = count_parameters(config)
    routed, total, active = count["routed experts"], count["total"], count["active"]
    print(f"{name:<9}{config.experts:>4} experts  {total:>15,} parameters: {routed / total:>4.0%} routed", end="")
    print(f", a text token runs {active / total:>4.0%}, {active:,}")
assert 3.6 < count_parameters(maverick)["total"] / count_parameters(scout)["total"] < 4
assert count_parameters(scout)["active"] < 17.2e9 < 0.16 * count_parameters(scout)["total"]
assert count_parameters(maverick)["active"] < 17.2e9 < 0.05 * count_parameters(maverick)["total"]

# %% [markdown]
# Maverick has nearly four times Scout's parameters, and a token costs the same: both run about 17 billion. (Maverick has
# 128 experts, but only in every second layer; its other layers are dense.)
#
# ## The router
#
# We follow one prompt, a picture and a question, into layer 1, and stop where the mixture of experts begins. Each of the
# `S` tokens is a vector of width `D` there. Inside the mixture no token looks at another, so the rows of the batch are
# laid out as one: `N` = `B` · `S` tokens. `E` is the number of experts.

# %%
dog = shown("dog-face").picture
prompt = llm.encode("What is this?", images=[dog])
tokens_BS = torch.tensor([prompt.ids])
pieces = [visible(llm.tokenizer.decode([token])) for token in prompt.ids]

entering = {}  # layer -> what its mixture of experts reads
handles = [
    layer.ffn.register_forward_pre_hook(lambda module, args, number=number: entering.update({number: args[0]}))
    for number, layer in enumerate(llm.model.decoder.layers)
]
llm.model(tokens_BS, images=prompt.tiles)
for handle in handles:
    handle.remove()

moe, x_BSD = llm.model.decoder.layers[1].ffn, entering[1]
x_ND = rearrange(x_BSD, "b s d -> (b s) d")
logits_NE = moe.router(x_ND)
shapes(x_BSD=x_BSD, x_ND=x_ND, router_weight=moe.router.weight, logits_NE=logits_NE)

assert torch.allclose(logits_NE, x_ND @ moe.router.weight.T, atol=1e-4)

# %% [markdown]
# The router is a single matrix `[E, D]`, one row for each expert. A token's **logit** for an expert is the product of its
# vector with that row, without a bias. The largest logit wins; that is all the choosing there is. `moe.route` does this
# for all tokens, and gives each token's expert and its score, which the next section explains.

# %%
expert_N, score_N = moe.route(x_ND)
shapes(expert_N=expert_N, score_N=score_N)

last = slice(-13, None)  # the question and what follows it
rows = [f"{piece}   {score:.2f}" for piece, score in zip(pieces[last], score_N[last].tolist(), strict=True)]
whole, axes = figure(6.2, 5.4)
matrix(axes, logits_NE[last], rows=rows, columns=range(llm.config.experts), numbers=True, signed=True)
for row, expert in enumerate(expert_N[last].tolist()):
    left, right, top, bottom = expert - 0.48, expert + 0.48, row - 0.48, row + 0.48
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="black", linewidth=1.6)
axes.set_title("router logits in layer 1, an expert a column\nframed: the largest; beside each token its score")
show(whole, "A table of logits, tokens by experts, the largest of each row framed, and each token's score beside it.")

assert torch.equal(expert_N, logits_NE.argmax(dim=-1))
assert torch.allclose(score_N, torch.sigmoid(logits_NE.amax(dim=-1)))

# %% [markdown]
# ## A sigmoid, not a softmax
#
# The winner's **score** is the sigmoid of its logit, $1 / (1 + e^{-\text{logit}})$: how strongly the expert is wanted,
# from 0 to 1. Other mixtures take a softmax over the experts instead, and there the experts compete: a close runner-up
# nearly halves the winner's weight. A sigmoid looks at the winner alone.
#
# Worked numbers. A winner with logit 2, once far ahead, once with a runner-up at 1.9, once with all logits lower by 4:

# %%
cases = {
    "far ahead": torch.tensor([2.0, -2.0, -2.0, -2.0]),
    "a runner-up": torch.tensor([2.0, 1.9, -2.0, -2.0]),
    "all lower by 4": torch.tensor([-2.0, -6.0, -6.0, -6.0]),
}
found = {name: (logit_E.max().sigmoid().item(), logit_E.softmax(0).max().item()) for name, logit_E in cases.items()}
for name, (sigmoid, softmax) in found.items():
    print(f"{name:<16} sigmoid {sigmoid:.3f}   softmax {softmax:.3f}")

assert found["far ahead"][0] == found["a runner-up"][0] and found["a runner-up"][1] < 0.53
assert abs(found["far ahead"][1] - found["all lower by 4"][1]) < 1e-6 and found["all lower by 4"][0] < 0.12

# %% [markdown]
# The last case is the other side of it. A softmax cannot say "none of you": its weights sum to 1. A sigmoid can: the
# token then relies on the shared expert.
#
# Router and sigmoid run in float32 even when the model runs in bfloat16. In bfloat16 two close logits may round to the
# same number, and a tie may go to the wrong expert. That is another result, not a slightly different one. The expert
# itself runs in bfloat16, as its output's dtype shows (`moe.routed` runs each token's expert; how, comes below):

# %%
moe_bf16 = llama4.load_model("tiny", dtype="bfloat16").decoder.layers[1].ffn
in_bf16 = moe_bf16.route(x_ND.bfloat16())
shapes(expert_N=in_bf16[0], score_N=in_bf16[1], routed=moe_bf16.routed(x_ND.bfloat16(), *in_bf16))
assert in_bf16[1].dtype == torch.float32

# %% [markdown]
# ## The score goes in, not out
#
# Most mixtures multiply the expert's *output* by its score. Llama 4 multiplies the *input*: `expert(score * x)`. For a
# linear map that would be the same. An expert is no linear map. It is a SwiGLU:
#
# $$\text{expert}(x) = \big(\text{silu}(x W_{gate}) \odot x W_{up}\big) W_{down}, \qquad
# \text{silu}(g) = g \cdot \text{sigmoid}(g)$$
#
# Look at one hidden unit with gate value $g$ and up value $u$. With the score $s$ on the input, both shrink:
#
# $$\text{silu}(s g) \cdot s u \;=\; s^2 \cdot g\,u \cdot \text{sigmoid}(s g)$$
#
# The score comes in **twice**, once through the gate and once through the up projection, and it also moves the sigmoid:
# gates that were shut open a little. Four units with $u = 1$:

# %%
score_S = torch.linspace(0, 1, 101)
whole, panels = figure(9, 2.4, 1, 4, sharex=True)
for axes, gate in zip(panels, (3.0, 1.0, -1.0, -4.0), strict=True):
    axes.plot(score_S, F.silu(score_S * gate) * score_S, color=BLUE, label="on the input")
    axes.plot(score_S, score_S * F.silu(torch.tensor(gate)), color=ORANGE, linestyle="--", label="on the output")
    axes.axhline(0, color="#bbbbbb", linewidth=0.6)
    axes.set_title(f"gate {gate:g}")
    axes.set_xlabel("score")
panels[0].legend(fontsize=8)
show(whole, "A hidden unit against the score: on the output a straight line, on the input a curve.")
on_input, on_output = (F.silu(torch.tensor(1.0)) * 0.5).item(), (0.5 * F.silu(torch.tensor(2.0))).item()
print(f"gate 2, up 1, score 0.5: {on_input:.3f} on the input, {on_output:.3f} on the output")
assert round(on_input, 3) == 0.366 and round(on_output, 3) == 0.881
assert 0.5 * F.silu(torch.tensor(-2.0)) < 1.5 * F.silu(torch.tensor(-4.0)) < 0  # gate -4 at scores 0.5 and 1

# %% [markdown]
# On the left, an open gate: the curve lies below the line, since the score counts twice. On the right, a shut gate: its
# unit is small at score 1, and larger, by more than half, at score 0.5. There a *smaller* score makes the unit speak up.
#
# Now the real experts. `moe.routed` takes the scores as an argument, so we can turn them all down together and see how
# long the output vectors become, for every token of the prompt.

# %%
ones_N = torch.ones_like(score_N)
full_ND = moe.routed(x_ND, expert_N, ones_N)
steps = torch.linspace(0.05, 1, 20)
lengths = torch.stack([moe.routed(x_ND, expert_N, step * ones_N).norm(dim=-1) / full_ND.norm(dim=-1) for step in steps])

whole, axes = figure(5.6, 2.9)
axes.plot(steps, lengths, color=BLUE, alpha=0.25, linewidth=0.8)
axes.plot([], [], color=BLUE, label="a token, score on the input")
axes.plot(steps, steps, color=ORANGE, linestyle="--", label="score on the output")
axes.plot(steps, steps**2, color="black", linestyle=":", label="score squared")
axes.set(xlabel="score", ylabel="length of the output", title="layer 1: output of the routed expert, 1 at score 1")
axes.legend(fontsize=8)
show(whole, "The curves of all tokens lie together, far below the score itself and close to its square.")
half = moe.routed(x_ND, expert_N, 0.5 * ones_N)
assert torch.allclose(half, moe.routed(0.5 * x_ND, expert_N, ones_N), atol=1e-5)
typical = (half.norm(dim=-1) / full_ND.norm(dim=-1)).median().item()
print(f"at score 0.5 the output has {typical:.2f} of its length, not 0.50")
assert 0.15 < typical < 0.4

# %% [markdown]
# So the place of the score is no detail of style. A kernel that moves it to the output gives every token another result,
# and nothing crashes. Chapter 08 shows how such a mistake is found.
#
# ## Sort, run, put back
#
# Both reference implementations, Meta's and Hugging Face's, run *every* expert on every token and zero what is not wanted.
# That is easy to write. With Scout's 16 experts and the shared one it needs (16 + 1) / 2 = 8.5 times the work, since a
# token wants two of the seventeen. Here tokens are sorted by expert, each expert multiplies its own rows, and the rows go
# back to where they came from. The prompt's last ten tokens:

# %%
grouped_N, order_N = torch.sort(expert_N[-10:], stable=True)
group_ends_E = torch.searchsorted(grouped_N, torch.arange(llm.config.experts), right=True)
print("expert of each token ", expert_N[-10:].tolist())
print("tokens, sorted       ", order_N.tolist())
print("their experts        ", grouped_N.tolist())
print("group ends, by expert", group_ends_E.tolist())

scored_ND = x_ND[-10:] * score_N[-10:, None]
sorted_ND = moe.experts(scored_ND[order_N], group_ends_E)
back_ND = torch.empty_like(sorted_ND).index_copy(0, order_N, sorted_ND)
assert torch.equal(back_ND, moe.routed(x_ND[-10:], expert_N[-10:], score_N[-10:]))
assert group_ends_E[-1] == 10

# %% [markdown]
# `group_ends_E` is the running total of the group sizes: expert `e` owns the rows from the entry before it up to its
# own. An expert whose entry equals the one before it has no token, and does nothing. How the matrix products of all
# groups become one kernel is chapter 11.
#
# The same by the references' way: every expert on every token, then keep the wanted one. `group_ends_E` that are 0 before
# an expert and 10 from it on give it all ten tokens.

# %%
experts_E = torch.arange(llm.config.experts)
every_END = torch.stack([moe.experts(scored_ND, 10 * (experts_E >= expert)) for expert in experts_E])
wanted_NE = F.one_hot(expert_N[-10:], llm.config.experts).float()
slow_ND = torch.einsum("end,ne->nd", every_END, wanted_NE)
shapes(every_END=every_END, wanted_NE=wanted_NE, slow_ND=slow_ND)

assert torch.allclose(slow_ND, back_ND, atol=1e-5)
assert (scout.experts + 1) / 2 == 8.5

# %% [markdown]
# ## Routed plus shared
#
# The layer's output is the sum of the two experts' outputs. How much does each contribute? The routed part's share of the
# two lengths, over the tokens of the prompt:

# %%
for number, layer in enumerate(llm.model.decoder.layers):
    x = rearrange(entering[number], "b s d -> (b s) d")
    routed_ND, shared_ND = layer.ffn.routed(x, *layer.ffn.route(x)), layer.ffn.shared(x)
    assert torch.allclose(routed_ND + shared_ND, layer.ffn(entering[number])[0], atol=1e-4)
    share_N = routed_ND.norm(dim=-1) / (routed_ND.norm(dim=-1) + shared_ND.norm(dim=-1))
    print(f"layer {number}: from {share_N.min():.2f} to {share_N.max():.2f}, {share_N.mean():.2f} in the mean")
    assert 0.05 < share_N.mean() < 0.95 and share_N.max() > 1.5 * share_N.min()

# %% [markdown]
# Both parts count, and how much the routed expert adds differs widely from token to token.
#
# ## Where words go
#
# Which experts do the tokens of a question take? `recorded` watches the routers from outside while the model runs, and
# notes each token's expert, layer by layer.

# %%
from llama4.evaluation.style import expert_colour
from llama4.parity.routing import Routing, closed, recorded, routers

EXPERTS = {expert: (f"expert {expert}", expert_colour(expert)) for expert in range(llm.config.experts)}


def experts_of(text: str) -> tuple[list[str], torch.Tensor]:
    """The tokens of a question, and the expert of each in every layer."""
    ids, taken = llm.encode(text).ids, Routing()
    with recorded(routers(llm.model), taken):
        llm.model(torch.tensor([ids]))
    return [visible(llm.tokenizer.decode([token])) for token in ids], torch.stack(list(taken.values()))


whole, panels = figure(9, 5, 2, 1)
for axes, text in zip(panels, ("How do you say dog face in German?", "Was ist das? Was ist das?"), strict=True):
    names, by_layer = experts_of(text)
    matrix(axes, by_layer, rows=[f"layer {n}" for n in range(4)], columns=names, classes=EXPERTS, numbers=True)
panels[1].get_legend().remove()
show(whole, "Two questions, their tokens across, the layers down, each cell with its expert's number and colour.")

# %% [markdown]
# The second question says the same thing twice. How many of the four tokens of `Was ist das?` go to the same expert both
# times?

# %%
first, second = (place for place, name in enumerate(names) if name == "Was")
repeats = (by_layer[:, first : first + 4] == by_layer[:, second : second + 4]).sum(dim=1)
for layer, same in enumerate(repeats.tolist()):
    print(f"layer {layer}: {same} of 4")
assert names[first : first + 4] == names[second : second + 4] and repeats.sum() >= 5

# %% [markdown]
# By chance it would be about an eighth of them. A word's expert follows to a good part from the word itself, and for the
# rest from what stands around it: attention has mixed that in before the router looks.
#
# To measure that on more text, the model is asked about every picture of the package in sixteen languages, and reads each
# question together with its right answer. Rows of unequal length are padded, and `part` holds them as one batch.
# `tallied` counts, layer by layer, how often each token id went to each expert, padding left out. `encoded_once` keeps a
# picture's vectors, so that the vision encoder need not see it sixteen times.

# %%
from llama4.evaluation.asking import encoded_once
from llama4.evaluation.experts import favourites, loads, tallied
from llama4.evaluation.wordings import NAMING
from llama4.train.data import pad
from llama4.train.rows import Row

EMOJI = [shown(file.removesuffix(".png")) for file in json.loads((FOLDER / "names.json").read_text("utf-8"))]
EOT = llm.tokenizer.special_id("<|eot|>")


def asked(languages: tuple[str, ...]) -> tuple:
    """Every picture, asked about and named in each language: a padded batch, and its tiles."""
    rows, tiles = [], []
    for language in languages:
        for emoji in EMOJI:
            question = llm.encode(NAMING[language], images=[emoji.picture])
            answer = [*llm.tokenizer.encode(emoji.names[language]), EOT]
            rows.append(Row(question.ids + answer, [False] * len(question.ids) + [True] * len(answer)))
            tiles.append(question.tiles)
    return pad(rows, slice(0, len(rows)), llm.config.pad_id), torch.cat(tiles)


# %%
part, tiles = asked(tuple(NAMING))
shapes(tokens_BS=part.tokens_BS, tiles=tiles)
with tallied(llm.model) as tally, encoded_once(llm.model):
    llm.model(part.tokens_BS, images=tiles, lengths_B=torch.tensor(part.counts), logits="last")
shapes(counts_VE=tally.counts[0])
by_word = []
for layer, counts_VE in tally.counts.items():
    words_VE = counts_VE * (counts_VE.sum(dim=1, keepdim=True) >= 8)  # only ids that occur eight times or more
    words_VE[list(llm.tokenizer.special_tokens.values())] = 0  # neither patches nor markers
    by_word.append(words_VE.amax(dim=1).sum() / words_VE.sum())
    print(f"layer {layer}: a word goes to its favourite expert {by_word[-1]:.0%} of the time", end=", ")
    print(f"the busiest expert takes {words_VE.sum(dim=0).amax() / words_VE.sum():.0%} of all words")
assert min(by_word) > 0.4

# %% [markdown]
# A word's favourite is the expert that took it most often. Words that occur fewer than eight times are left out: one that
# occurs once is always with its favourite. The busiest expert's share is what a guess would get that ignores the word.
#
# Which words does an expert of layer 0 call its own, that is, take more than half of the times they occur? Do not expect
# topics. Experts divide the *vectors*, in whatever way made the loss fall, and which word it is is only part of a vector.
# (A � is a token that ends inside a character, chapter 01.)

# %%
own = favourites(tally, 0, most=10)
table(
    ["expert", "its words in layer 0, the most frequent first"],
    [(expert, "  ".join(visible(llm.tokenizer.decode([token])) for token in ids)) for expert, ids in enumerate(own)],
)
assert sum(map(bool, own)) >= 6

# %% [markdown]
# ## Where the parts of a picture go
#
# A picture's patch tokens pass the same routers. Here are four pictures. Each square is one token, 16 × 16 pixels of the
# picture's 64 × 64, in the colour and with the number of its expert.

# %%
from llama4.evaluation.figure import routing_panel
from llama4.evaluation.routing import patch_experts

chosen = [shown(name).picture for name in ("dog-face", "pizza", "umbrella", "sunflower")]
whole, grid = figure(6.4, 5.3, 4, 5)
for row, image in zip(grid, chosen, strict=True):
    picture(row[0], image)
    for axes, experts in zip(row[1:], patch_experts(llm, image).values(), strict=True):
        routing_panel(axes, image, experts)
for layer in range(4):
    grid[0][layer + 1].set_title(f"layer {layer}")
show(whole, "Four pictures, and beside each its 4 x 4 patch tokens in the colours of their experts, in four layers.")

# %% [markdown]
# Sixteen tokens are a coarse grid. A larger picture is cut into tiles (chapter 02), and there are more tokens to look at.
# Enlarged to 256 × 256 pixels, a picture has 4 × 4 tiles of 4 × 4 tokens; the global tile is left out of the maps. Three
# of the pictures so, without the numbers. (In Jupyter, point at the dog below: all tokens with the same expert stay, layer
# by layer.)

# %%
whole, grid = figure(7.2, 4.6, 3, 5)
maps = []
for row, image in zip(grid, chosen, strict=False):
    picture(row[0], image)
    maps.append(patch_experts(llm, image, tiles_a_side=4))
    for axes, experts in zip(row[1:], maps[-1].values(), strict=True):
        routing_panel(axes, image, experts, numbers=False)
for layer in range(4):
    grid[0][layer + 1].set_title(f"layer {layer}")
alt = "Three pictures as 16 x 16 patch tokens each, coloured by expert: a mosaic with stretches of one colour."
interactive(routes(dog, maps[0]), whole, alt)
print(f"{maps[0][0].numel()} patch tokens a picture, a map of {list(maps[0][0].shape)} in each layer")

# %% [markdown]
# At first sight that is a mosaic. Looking longer, one sees stretches of one colour along edges and areas, and patterns that
# come again from tile to tile, since a token's place in its tile is in its vector too. Is that so, or does it only seem
# so? We count three things: how often two *neighbours* in a row share an expert, how often two tokens at the *same place*
# of neighbouring tiles do, and how often two that are drawn from anywhere in the picture.

# %%
agreement = torch.zeros(4, len(maps), 3)
for number, drawn in enumerate(maps):
    for layer, experts_YX in drawn.items():
        share_E = torch.bincount(experts_YX.flatten(), minlength=8) / experts_YX.numel()
        agreement[layer, number, 0] = (experts_YX[:, 1:] == experts_YX[:, :-1]).float().mean()
        agreement[layer, number, 1] = (experts_YX[:, 4:] == experts_YX[:, :-4]).float().mean()
        agreement[layer, number, 2] = share_E.square().sum()  # two drawn at random are the same with sum of p^2
beside, next_tile, anywhere = agreement.mean(dim=1).T
for layer in range(4):
    print(f"layer {layer}: neighbours agree {beside[layer]:.0%}, the same place of the next tile", end=" ")
    print(f"{next_tile[layer]:.0%}, anywhere {anywhere[layer]:.0%}")
assert (beside > anywhere).all() and next_tile.mean() > anywhere.mean()

# %% [markdown]
# ## Load balance
#
# Routing has a failure of its own. An expert that gets many tokens learns faster, so it wins more tokens. Left alone,
# training can end with one expert doing everything and the others idle. How level is this model, over the questions and
# answers that were tallied above? 1 is an equal share, 8 would be all tokens. Patches and words are counted apart (markers
# are words here), since an expert could be busy with one and idle in the other.

# %%
level = {kind: [row["shares"] for row in loads(tally) if row["tokens"] == kind] for kind in ("patches", "words")}
whole, panels = figure(9, 2.3, 1, 2)
for axes, (kind, shares_of_kind) in zip(panels, level.items(), strict=True):
    load = llm.config.experts * torch.tensor(shares_of_kind)
    matrix(axes, load, rows=[f"layer {n}" for n in range(4)], columns=range(8), numbers=True, highest=2.5)
    axes.set_title(f"{kind}: an expert's share, times {llm.config.experts}")
show(whole, "Two tables, layers by experts: the share of patches and of words that each expert takes, 1 being level.")
busiest = max(row["busiest"] for row in loads(tally))
print(f"the busiest expert of any layer takes {busiest:.2f} times an equal share")
assert busiest < 4

# %% [markdown]
# That did not come by itself. How Meta levelled Llama 4's routers is not published. The small model's training added a
# **balance term** to the loss (Fedus et al., arXiv 2101.03961), which grows where the load is not level:
#
# $$E \cdot \sum_e f_e \, p_e$$
#
# $E$ is the number of experts, $f_e$ the share of tokens that went to expert $e$, $p_e$ the mean over all tokens of the
# expert's probability, which for this purpose is a softmax of the logits. With 8 experts, level routing gives
# $8 \cdot 8 \cdot \tfrac18 \cdot \tfrac18 = 1$, and everything on one expert gives 8. The share $f$ is a count and has no
# gradient, $p$ has one: the term pushes down the logits of just those experts that are too popular.
#
# `listening` keeps the routers' logits. `balance_of` is the function that training used: a term for patches and one for
# words, averaged, and summed over the layers.

# %%
from llama4.moe import Router
from llama4.train.objective import balance_of, listening

english, english_tiles = asked(("en",))
real_BS = torch.arange(english.tokens_BS.shape[1]) < torch.tensor(english.counts)[:, None]
keep = moe.register_forward_pre_hook(lambda module, args: entering.update({"all": args[0]}))  # for the next cell
with listening(llm.model) as heard, keep:
    llm.model(english.tokens_BS, images=english_tiles, lengths_B=torch.tensor(english.counts))
patch_BS = (english.tokens_BS == llm.config.patch_id) & real_BS
total, _ = balance_of(heard, patch_BS, real_BS & ~patch_BS)
print(f"this model, mean over its layers: {total.item() / len(heard):.3f}")
one_expert = F.one_hot(torch.zeros(100, dtype=torch.int64), 8) * 50.0
spread_out = F.one_hot(torch.arange(96) % 8, 8) * 50.0
collapsed, flat = (balance_of([x], torch.ones(len(x), dtype=torch.bool))[0] for x in (one_expert, spread_out))
print(f"all tokens on one expert: {collapsed.item():.3f}   evenly over all: {flat.item():.3f}")
assert abs(collapsed - 8) < 1e-4 and abs(flat - 1) < 1e-4 and 0.9 < total / len(heard) < 2

# %% [markdown]
# To see it work, take a fresh router, spoil it so that most tokens of our prompts go to expert 0, and train it on nothing
# but the balance term, on the vectors that enter layer 1's mixture. `course` keeps the term, and the busiest expert's load
# in the same unit as above: 1 is level, 8 is everything.

# %%
tokens_ND = entering["all"][real_BS].clone()
torch.manual_seed(0)
router = Router(llm.config.width, llm.config.experts)
router.weight.normal_(std=0.02)
router.weight[0] += 2 * tokens_ND.mean(dim=0) / tokens_ND.mean(dim=0).norm()
every_N, course = torch.ones(len(tokens_ND), dtype=torch.bool), []
optimiser = torch.optim.Adam(router.parameters(), lr=0.01)
with torch.enable_grad():
    for _ in range(60):
        loss, (busy,) = balance_of([router(tokens_ND)], every_N)
        course.append((loss.item(), busy))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %%
whole, axes = figure(5.2, 2.4)
for values, label in zip(zip(*course, strict=True), ("balance term", "busiest expert"), strict=True):
    axes.plot(values, label=f"{label}: {values[0]:.1f} to {values[-1]:.2f}")
axes.axhline(1, color="#999999", linestyle=":", linewidth=0.8)
axes.set(xlabel="step", title="a collapsed router, trained on the balance term alone")
axes.legend(fontsize=8)
show(whole, "Two curves: both begin far above 1, with most tokens on one expert, and fall towards 1, a level load.")
assert course[0][1] > 6 and course[-1][1] < 3 and course[-1][0] < 1.5

# %% [markdown]
# ## Without an expert
#
# What is each expert worth? We take it away and measure how much worse the answers become. The measure is the one that
# training lowers, the cross entropy of the right names, in nats per token of the answer (0 is certainty). It is taken over
# the pictures of the package, asked about in English and German; beside it stands how many names are right to the last
# token.
#
# First the model is left as it is. Then *all* routed experts of one layer are silenced, and then its shared expert.

# %%
from llama4.train.objective import measure
from llama4.train.validate import right_names

part, tiles = asked(("en", "de"))


def judged() -> tuple[float, int]:
    """Cross entropy a token of the answers, and how many names are right to the last token."""
    found = measure(llm.model, part, tiles)
    return found.answers.item() / found.answer_tokens, int(right_names(llm.model, part, tiles).sum())


# %%
missing = {}
with encoded_once(llm.model):  # the pictures' vectors stay the same throughout
    untouched, right = judged()
    for kind in ("experts", "shared"):
        for number, layer in enumerate(llm.model.decoder.layers):
            with getattr(layer.ffn, kind).register_forward_hook(lambda module, args, out: torch.zeros_like(out)):
                missing[kind, number] = judged()
print(f"{'untouched':<25} {untouched:.3f} nats, {right} of {len(part.counts)} names")
for (kind, number), (loss, names_right) in missing.items():
    print(f"layer {number} without {kind:<10} {loss:.3f} nats, {names_right} names")
alone = {kind: [missing[kind, layer][0] for layer in range(4)] for kind in ("experts", "shared")}
assert min(alone["experts"]) > untouched and sum(alone["shared"]) / 4 > untouched

# %% [markdown]
# Now one expert at a time, 4 × 8 models. `closed` closes it, and its tokens go to the expert that they scored second;
# everything else stays. The number is what that adds to the loss.

# %%
costs = torch.zeros(4, llm.config.experts)
with encoded_once(llm.model):
    for layer in range(4):
        for expert in range(llm.config.experts):
            with closed(routers(llm.model), {layer: expert}):
                found = measure(llm.model, part, tiles)
            costs[layer, expert] = found.answers.item() / found.answer_tokens - untouched

whole, axes = figure(6.6, 2.5)
matrix(axes, costs, rows=[f"layer {n}" for n in range(4)], columns=range(8), numbers=True, signed=True)
axes.set_title("nats a token that closing one expert adds")
show(whole, "A table, layers by experts, of what closing an expert adds to the loss.")
all_closed = torch.tensor([missing["experts", layer][0] - untouched for layer in range(4)])
print("the dearest of each layer: ", [round(cost, 2) for cost in costs.amax(dim=1).tolist()])
print("all eight at once:         ", [round(cost, 2) for cost in all_closed.tolist()])
assert costs.mean() > 0 and (costs.mean(dim=1) < all_closed).all()

# %% [markdown]
# In every layer, the mean expert costs less than all eight: a token whose expert is closed still has its second choice
# and the shared expert.
#
# The last layer is a case of its own. After its attention no token looks at another any more. So only the tokens that
# *predict* matter there: those that stand just before a token of the answer. An expert that takes none of them could be
# deleted for this task, and its cell is 0. How many does each take?

# %%
last_layer, taken = len(llm.config.layers) - 1, Routing()
with recorded(routers(llm.model), taken), encoded_once(llm.model):
    measure(llm.model, part, tiles)
predicts_BS = F.pad(part.answer_BS[:, 1:], (0, 1))  # a place predicts where an answer's token comes next
predicting_E = torch.bincount(taken[last_layer][predicts_BS.flatten()], minlength=llm.config.experts)
print("predicting tokens of each expert in the last layer:", predicting_E.tolist())
print("loss that closing it adds:", [f"{cost:.3f}" for cost in costs[last_layer].tolist()])
assert predicting_E.sum() == part.answer_BS.sum() and (costs[last_layer][predicting_E == 0].abs() < 1e-5).all()

# %% [markdown]
# The claim behind it, on the dog's prompt: closing an expert of the last layer changes the scores of its own tokens, and
# of no other.

# %%
with recorded(routers(llm.model), taken):
    before_SV = llm.model(tokens_BS, images=prompt.tiles)[0]
gone = taken[last_layer][-1].item()  # the expert of the token that predicts the answer
with closed(routers(llm.model), {last_layer: gone}):
    after_SV = llm.model(tokens_BS, images=prompt.tiles)[0]

moved_S = (after_SV - before_SV).abs().amax(dim=-1)
mine_S = taken[last_layer] == gone
print(f"expert {gone} has {mine_S.sum()} of {len(mine_S)} tokens; without it, scores move by up to", end=" ")
print(f"{moved_S[mine_S].max():.2f} there and {moved_S[~mine_S].max():.1g} elsewhere")
assert moved_S[mine_S].max() > 0.1 and moved_S[~mine_S].max() < 1e-4

# %% [markdown]
# ## Exercises
#
# **1.** A router gives a token the logits −10, −11, −12, … What does the layer add to this token, and what would a
# softmax have done?
#
# <details><summary>Answer</summary>
#
# The score is sigmoid(−10) = 0.000045. The routed expert reads an input that is practically zero and puts out practically
# zero, so the layer adds the shared expert's output alone. A softmax over eight such logits would give the first expert
# 0.63 all the same.
#
# </details>
#
# **2.** How many times the needed work is "every expert on every token" for one of Maverick's MoE layers?
#
# <details><summary>Answer</summary>
#
# 128 experts and the shared one instead of one and the shared one, all of the same size: 129 / 2 = 64.5 times.
#
# </details>

# %% [markdown]
# **3.** Some mixtures give each expert a fixed number of places, and tokens that come too late are dropped. Then a token's
# result depends on who else is in the batch. Does it here?
#
# <details><summary>Answer</summary>
#
# No. No expert has a limit, so each token is treated as if it were alone. Shuffle the tokens of a batch, and each gets
# what it got before, to rounding.
#
# </details>

# %%
score = torch.tensor(-10.0).sigmoid()
quiet_ND = moe.routed(x_ND, expert_N, score * ones_N)
assert round(score.item(), 6) == 0.000045 and quiet_ND.norm() < 1e-4 * moe.shared(x_ND).norm()
assert 0.6 < torch.arange(-10.0, -18.0, -1.0).softmax(0)[0] < 0.64
assert (maverick.experts + 1) / 2 == 64.5
shuffle_N = torch.randperm(len(x_ND), generator=torch.Generator().manual_seed(0))
assert torch.allclose(moe(x_ND[shuffle_N][None])[0], moe(x_ND[None])[0][shuffle_N], atol=1e-4)

# %% [markdown]
# ## Source
#
# - [`moe.Router`](../llama4/moe.py#L28), [`moe.MoE.route`](../llama4/moe.py#L79) and
#   [`moe.MoE.routed`](../llama4/moe.py#L84): the choice, the score, the sorting.
# - [`layers.FeedForward`](../llama4/layers.py#L47): SwiGLU, the shared expert.
# - [`ops.eager_grouped_matmul`](../llama4/ops.py#L111): each expert times its own rows.
# - [`objective.balance_of`](../llama4/train/objective.py#L74): the balance term.
# - [`routing.recorded`](../llama4/parity/routing.py#L41) and [`routing.closed`](../llama4/parity/routing.py#L64): watch the
#   routers, or take an expert away; [`experts.tallied`](../llama4/evaluation/experts.py#L48): count.
