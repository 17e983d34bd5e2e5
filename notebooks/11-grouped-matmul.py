# %% [markdown]
# # 11 · The grouped matmul
#
# *One matrix product with another weight for every group of rows: from a loop, to a tile, to a kernel whose programs stay;
# run here line by line, in Triton's interpreter.*
#
# A mixture of experts (chapter 07) sorts its tokens by expert and multiplies each group by its own weight. Nearly nine tenths
# of Scout's weights are met in this way and in no other.
#
# What runs on a GPU is a **kernel**: one function, run in many copies at once. **Triton** is Python for writing kernels. The
# repository has two Triton kernels for this product, one to be read and one to be fast. This chapter needs no GPU: Triton can
# run a kernel in an **interpreter**, one copy after the other, with NumPy. It must be told so before a kernel is imported.
# Triton's own packages are for Linux only; elsewhere the chapter shows what plain Python can.

# %%
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from figures import BLUE, SKY, figure, lines, logarithmic, shapes, show, table
from matplotlib.patches import Rectangle

from llama4.ops import eager_grouped_matmul

# %%
CUDA = torch.cuda.is_available()
device = torch.device("cuda" if CUDA else "cpu")
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"
TRITON = all(importlib.util.find_spec(name) is not None for name in ("triton", "llama4_kernels"))
if TRITON:
    from llama4_kernels import naive

    try:
        naive.multiply(torch.ones(1, 1).to(device), torch.ones(1, 1, 1).to(device), torch.tensor([1]).to(device))
    except Exception as error:  # the interpreter of Triton 3.6 fails with NumPy 2.4, that of 3.9 does not
        if "only 0-dimensional arrays" not in str(error):
            raise
        TRITON = False
where = "on a GPU" if CUDA else "in its interpreter"
print("Triton runs", where if TRITON else "not here, or is too old for this NumPy: no kernel runs below")

# %% [markdown]
# The pictures and the counting are taken from `kernels/benchmarks`, which needs no Triton.

# %%
sys.path.append("../kernels/benchmarks")
import grid
import plot
import shapes as layers
import traffic
from timing import median_ms

scout = layers.SCOUT
routed = 48 * scout.experts * 3 * scout.width * scout.hidden  # 48 layers; gate, up and down of each expert
print(f"Scout's routed experts: {routed / 1e9:.1f} of 108.6 billion weights")
assert 0.88 < routed / 108_641_793_536 < 0.9

# %% [markdown]
# ## The problem
#
# `x` has N rows of width D, sorted by expert. `w` has a matrix `[D, F]` for each of E experts. `ends` is the running total of
# the group sizes, as in chapter 07. Row n of group e is to become `x[n] @ w[e]`.
#
# With ends 2, 2, 5 rows 0 and 1 belong to expert 0, nobody to expert 1, and rows 2, 3 and 4 to expert 2.

# %%
ends_E = torch.tensor([2, 2, 5])
x_ND, w_EDF = torch.randn(5, 3), torch.randn(3, 3, 4)
expert_N = torch.searchsorted(ends_E, torch.arange(5), right=True)
print("expert of each row:", expert_N.tolist())
by_rows_NF = torch.stack([x_D @ w_EDF[expert] for x_D, expert in zip(x_ND, expert_N.tolist(), strict=True)])
shapes(x_ND=x_ND, w_EDF=w_EDF, by_rows_NF=by_rows_NF)
assert expert_N.tolist() == [0, 0, 2, 2, 2]
assert torch.allclose(eager_grouped_matmul(x_ND, w_EDF, ends_E), by_rows_NF, atol=1e-5)

# %% [markdown]
# `eager_grouped_matmul` is the plain way: on a CPU, a loop over the groups, one matmul each. On a GPU, what would be wrong with
# that?
#
# - The host, which is the CPU, must know the group sizes to slice `x`. They are on the device, the GPU. So the host waits for
#   the device, in every layer.
# - Each matmul is a **launch**: the host tells the device to start a kernel. That is one for each expert that has tokens, and
#   most are small.
#
# And groups are *ragged*: they differ in size. Here are the groups of Maverick's 128 experts for 512 tokens, chosen evenly, and
# of Scout's 16 where some are favoured.

# %%
whole, (left, right) = figure(9, 2.2, 1, 2, width_ratios=(2, 1))
for axes, shape, routing in ((left, layers.MAVERICK, "uniform"), (right, layers.SCOUT, "skewed")):
    logits_NE = layers.routes(512, shape.experts, routing, torch.device("cpu"))
    size_E = torch.bincount(logits_NE.argmax(-1), minlength=shape.experts)
    axes.bar(range(shape.experts), size_E, color=BLUE)
    axes.set_title(f"{shape.name}, {routing}")
    axes.set_xlabel("expert")
    axes.set_xticks(range(0, shape.experts, shape.experts // 8))
    print(f"{shape.name}: {shape.experts} groups of {size_E.min()} to {size_E.max()} rows")
    assert size_E.sum() == 512 and size_E.max() > 2 * size_E.float().mean()
left.set_ylabel("rows")
show(whole, "Bars of group sizes: after an even choice they differ by chance, after a skewed one by far.")

# %% [markdown]
# ## A tile
#
# A GPU's matmul cuts the output into **tiles** (nothing to do with a picture's). A **program**, one of the kernel's copies,
# computes one tile: it walks along D, takes a block of `x` and a block of `w`, multiplies them and adds to its sums. In a plain
# product with M rows a tile, tile i is simply rows i·M to (i+1)·M − 1.
#
# In a grouped one a tile must not reach over the end of its group, since the next row wants another weight. So each group is
# tiled by itself, and its last tile may be partly empty. Groups of 5, 0, 3, 9 and 1 rows, in tiles of 4:

# %%
tiles = grid.row_tiles()
table(["row tile", "expert", "first row", "rows"], [(number, *tile) for number, tile in enumerate(tiles)])
assert [sum(own for expert, _, own in tiles if expert == e) for e in range(5)] == list(grid.SIZES)
assert all(own <= grid.ROWS for _, _, own in tiles) and 1 not in [expert for expert, _, _ in tiles]


# %% [markdown]
# How many programs must be launched? The host does not know the sizes. But full tiles are at most N // M, and each group
# adds one at most that is not full. So `N // M + E` is always enough, a bound without asking. A program too many finds no tile
# and returns at once. Two thousand random batches agree, and sixteen groups of one row each meet the bound exactly.

# %%
rng = np.random.default_rng(0)
slack = []
for _ in range(2000):
    sizes = rng.integers(0, 40, rng.integers(1, 20)) * (rng.random() < 0.9)
    rows = int(rng.integers(1, 33))
    slack.append(int(sizes.sum()) // rows + len(sizes) - len(grid.row_tiles(sizes.tolist(), rows)))
print(f"programs that had nothing to do: {min(slack)} to {max(slack)}")
assert min(slack) == 0
assert len(grid.row_tiles([1] * 16, 128)) == 16 // 128 + 16

# %% [markdown]
# ## The first kernel: counting
#
# Which rows are program p's? The readable kernel counts: it walks through the groups and takes their tiles off its own
# number until it is inside one. It is printed below as it stands in the repository. Some words of Triton to read it by:
#
# - `tl.program_id` is the program's own number: here one for its row tile, one for its column tile.
# - A pointer plus a block of offsets is a block of addresses. `tl.load` and `tl.store` move all of them at once, those that
#   `mask` allows. `x_row` and its like are strides.
# - `tl.dot(x, w, sums)` multiplies two blocks and adds to the sums. `tl.cdiv` divides and rounds up.
# - What is marked `tl.constexpr` is fixed when the kernel is compiled.

# %%
naive_source = Path("../kernels/llama4_kernels/naive.py").read_text(encoding="utf-8")
kernel = naive_source[naive_source.index("@triton.jit") :]
print(kernel[: kernel.index("@triton.jit", 1)].strip())
assert "while (tile >= tiles)" in kernel and "tl.dot" in kernel

# %% [markdown]
# Every load has its mask: rows of the group, depth, columns. What a mask excludes arrives as 0 and adds nothing. The last
# store is masked too, so no tile writes over its group's end.
#
# We run it. Sizes are awkward on purpose: an empty group, one row, odd widths. It is held against the loop in float64.

# %%
SIZES = [5, 0, 70, 9, 1]


def problem(depth: int, columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random rows, weights and group ends on the device."""
    generator = torch.Generator().manual_seed(1)
    x_ND = torch.randn(sum(SIZES), depth, generator=generator).to(device, dtype)
    w_EDF = torch.randn(len(SIZES), depth, columns, generator=generator).to(device, dtype)
    return x_ND, w_EDF, torch.tensor(SIZES, device=device).cumsum(0)


def off_by(found_NF: torch.Tensor, x_ND: torch.Tensor, w_EDF: torch.Tensor, ends_E: torch.Tensor) -> float:
    """The largest error, as a share of the largest number; the loop in float64 is what is right."""
    exact_NF = eager_grouped_matmul(x_ND.double(), w_EDF.double(), ends_E)
    return float((found_NF.double() - exact_NF).abs().max() / exact_NF.abs().max())


odd = problem(37, 71, torch.float32)
found_NF = eager_grouped_matmul(*odd)
if TRITON:
    found_NF = naive.multiply(*odd)
shapes(x_ND=odd[0], w_EDF=odd[1], found_NF=found_NF)
print(f"{'naive.multiply' if TRITON else 'the loop'}: off by {off_by(found_NF, *odd):.1e}")
assert off_by(found_NF, *odd) < 2e-6

# %% [markdown]
# ## The second kernel: staying
#
# The fast kernel, [`persistent.py`](../kernels/llama4_kernels/persistent.py), computes the same product. It differs in four
# ways, and none needs a GPU to be understood.
#
# **It does not count.** All group ends fit into a program's registers, the memory nearest to it. So it asks them all at once:
# the expert of tile t is the number of groups whose tiles end at or before t. One comparison with E numbers, one sum.

# %%
size_E = torch.tensor(grid.SIZES)
after_E = (-(-size_E // grid.ROWS)).cumsum(0)  # ceil(rows of e / ROWS), running total
print("tiles up to and with each expert:", after_E.tolist())
asked = [int((after_E <= tile).sum()) for tile in range(len(tiles))]
print("expert of each tile:             ", asked)
assert asked == [expert for expert, _, _ in tiles]

# %% [markdown]
# **It stays.** There are as many programs as the card has multiprocessors, the units that run them: P = 132 on an H100. Each
# takes tile after tile: program p takes tiles p, p + P, p + 2P … Nothing is launched for a tile, and the loads of the next
# begin while the last is still being stored.
#
# **It takes tiles in bands.** A band is a few row tiles high; its tiles are taken column by column, then comes the next band.
# The picture shows both, for four programs and bands of two row tiles. White parts of a tile are computed and not stored: they
# are rows of the next group, multiplied by the wrong weight, or zeros behind the last row.

# %%
place = {tile: number for number, tile in enumerate(grid.order())}
whole, axes = figure(7, 4.2)
y = 0.0
for row_tile, (expert, _first, own) in enumerate(tiles):
    for column in range(grid.COLUMN_TILES):
        number = place[row_tile, column]
        axes.add_patch(Rectangle((column + 0.02, y), 0.96, 4, facecolor="white", edgecolor="0.6"))
        axes.add_patch(Rectangle((column + 0.02, y), 0.96, own, facecolor=grid.COLOURS[expert], edgecolor="0.3"))
        words = f"program {number % grid.PROGRAMS}, its tile {number // grid.PROGRAMS}"
        axes.text(column + 0.5, y + 2, words, ha="center", va="center", fontsize=8)
    axes.text(-0.04, y + 2, f"expert {expert}, {own} rows", ha="right", va="center", fontsize=8)
    y += 4.3 if row_tile % grid.BAND == 0 else 5.2
axes.set(xlim=(-0.75, 3.02), ylim=(y, -0.3), title="tiles of 4 rows, three columns of tiles; bands of two row tiles")
axes.axis("off")
show(
    whole,
    "Seven row tiles by three column tiles, coloured by expert, each with the number of the program that takes it.",
)
assert sorted(place.values()) == list(range(len(tiles) * grid.COLUMN_TILES))

# %% [markdown]
# Is that what the kernel does? We write one that computes nothing and tells: it calls the three functions of
# [`tiles.py`](../kernels/llama4_kernels/tiles.py) that the fast kernel calls, and stores what they say of each tile. The table
# has the first six; the assert compares all. (Blocks in Triton have a power of two of places: `slots` is one that holds all
# groups.)

# %%
if TRITON:
    import triton
    import triton.language as tl
    from llama4_kernels.tiles import groups, in_bands, rows_of, slots

    @triton.jit
    def tell(told_ptr, ends_ptr, experts, columns, ROWS: tl.constexpr, BAND: tl.constexpr, SLOTS: tl.constexpr):
        begins, ends, tiles, after = groups(ends_ptr, experts, ROWS, SLOTS)
        row_tiles = tl.sum(tiles, 0)
        for number in tl.range(tl.program_id(0), row_tiles * columns, tl.num_programs(0)):
            row_tile, column = in_bands(number, row_tiles, columns, BAND)
            expert, row, end = rows_of(row_tile, begins, ends, tiles, after, ROWS, SLOTS)
            tl.store(told_ptr + 5 * number, tl.program_id(0))
            tl.store(told_ptr + 5 * number + 1, column)
            tl.store(told_ptr + 5 * number + 2, expert)
            tl.store(told_ptr + 5 * number + 3, row)
            tl.store(told_ptr + 5 * number + 4, tl.minimum(end - row, ROWS))

    told = torch.full((len(place), 5), -1, dtype=torch.int32, device=device)
    ends_E, experts = size_E.cumsum(0).to(device), len(grid.SIZES)
    tell[(grid.PROGRAMS,)](told, ends_E, experts, grid.COLUMN_TILES, grid.ROWS, grid.BAND, slots(experts))
    table(["program", "column tile", "expert", "first row", "rows"], told.tolist()[:6])
    expected = [[n % grid.PROGRAMS, column, *tiles[tile]] for n, (tile, column) in enumerate(grid.order())]
    assert told.tolist() == expected

# %% [markdown]
# Why bands? A tile needs one strip of `x`, its rows over the whole depth, and one strip of `w`, its columns. Programs that run
# at one time share what they read through the card's L2 cache. If 132 of them take the tiles of one row, they read 1 strip of
# `x` and 132 of `w`. In bands of 8 they read 8 and 17: a little more of `x` and far less of `w`. We count the strips of the
# first 132 tiles, for an output of 160 columns of tiles.

# %%
heights = [1, 2, 4, 8, 16, 32, 64, 128]
strips = []
for band in heights:
    together = grid.order(tiles=256, columns=160, band=band)[:132]
    strips.append((len({row for row, _ in together}), len({column for _, column in together})))
whole, axes = figure(6.5, 2.5)
lines(axes, {"of x": (heights, [x for x, _ in strips]), "of w": (heights, [w for _, w in strips])}, marker="o")
axes.plot(heights, [x + w for x, w in strips], "-.", color="0.3", marker="o", label="together")
axes.set_xscale("log", base=2)
axes.set_xticks(heights, [str(height) for height in heights])
axes.set_title("strips that 132 programs read at one time")
axes.set_xlabel("row tiles in a band")
axes.legend()
show(whole, "Strips of w fall and strips of x rise with the band's height; the sum is least near 8 and 16.")
print("bands of 8:", strips[3])
assert strips[0] == (1, 132) and strips[3] == (8, 17) and sum(strips[3]) <= 1.1 * min(map(sum, strips))

# %% [markdown]
# **Its blocks are fetched by a copy engine**, the card's tensor memory accelerator (TMA). A tensor is described to it once;
# then a block is named by its corner, and what lies outside the tensor arrives as zeros: no addresses, no masks. `w` is
# described in three dimensions, so that a block at the end of one expert's depth is filled with zeros and not with the next
# expert's rows. The price here: 16-bit numbers, and rows that begin at multiples of 16 bytes, so that D and F are multiples of
# eight. Anything else goes to the first kernel.
#
# `grouped_matmul` chooses between the two. In the interpreter the 16-bit type is float16, since bfloat16 comes out wrong there.

# %%
narrow = torch.bfloat16 if CUDA else torch.float16
even = problem(40, 72, narrow)
found_NF = eager_grouped_matmul(*even)
if TRITON:
    from llama4_kernels import grouped_matmul, persistent
    from llama4_kernels.configs import chosen
    from llama4_kernels.grouped import described

    print("for the copy engine:", described(even[0]), " odd widths:", described(odd[0]))
    found_NF = grouped_matmul(*even)
    few, many = persistent.programs, lambda _: 100  # how many programs there are: in the interpreter, three
    by_three = persistent.multiply(*even, chosen("forward", device))
    persistent.programs = many
    by_hundred = persistent.multiply(*even, chosen("forward", device))
    persistent.programs = few
    assert described(even[0]) and not described(odd[0]) and torch.equal(by_three, by_hundred)
print(f"off by {off_by(found_NF, *even):.1e} of the largest, in {found_NF.dtype}")
assert off_by(found_NF, *even) < (2**-7 if CUDA else 2**-10)

# %% [markdown]
# Three programs or a hundred: the same bits, since each tile is summed in the same order whoever takes it.
#
# ## Its gradient
#
# By `x` it is the same product with every weight transposed: `dx[n] = dy[n] @ w[e]ᵀ`. By `w` it is another kind: `dw[e] = x_eᵀ
# @ dy_e`, where the rows of a group are what is *summed over*. There a row of another group could not just be left unstored,
# it would be added. So the last block of each group is set to zero beyond the end. NaN in one group shows whether that holds.

# %%
if TRITON:
    x_ND, w_EDF, ends_E = (even[0].clone().requires_grad_(), even[1].clone().requires_grad_(), even[2])
    dy_NF = torch.ones(sum(SIZES), 72, dtype=narrow, device=device)
    grouped_matmul(x_ND, w_EDF, ends_E).backward(dy_NF)
    exact_x, exact_w = (one.double().detach().requires_grad_() for one in even[:2])
    eager_grouped_matmul(exact_x, exact_w, ends_E).backward(dy_NF.double())
    for mine, exact in ((x_ND.grad, exact_x.grad), (w_EDF.grad, exact_w.grad)):
        error = float((mine.double() - exact).abs().max() / exact.abs().max())
        print(f"{list(mine.shape)}: off by {error:.1e} of the largest")
        assert error < (2**-7 if CUDA else 2**-10)

    poisoned = even[0].clone()
    poisoned[5:75] = torch.nan  # group 2
    dw_EDF = persistent.weight_gradient(poisoned, dy_NF, ends_E, chosen("weight_gradient", device))
    print("experts whose gradient is NaN:", dw_EDF.isnan().any((1, 2)).nonzero().flatten().tolist())
    assert dw_EDF[2].isnan().all() and not dw_EDF[[0, 1, 3, 4]].isnan().any()

# %% [markdown]
# ## Where the bytes go
#
# A MoE layer made of grouped matmuls is more than its matmuls: tokens are gathered, gate and up are written, read again by
# the SwiGLU, and so on. The repository also has the layer **fused** into two kernels that write less in between. Here are both
# for Scout's routed experts on 4096 tokens in bf16, counted from the shapes (the weights left out, which both read once):

# %%
whole, axes = figure(8.5, 2.9)
steps = [*traffic.COMPOSED, *traffic.FUSED]
places = [number + (number >= len(traffic.COMPOSED)) for number in range(len(steps))]
axes.barh(places, [step.read for step in steps], color=SKY, label="read")
axes.barh(places, [step.written for step in steps], left=[step.read for step in steps], color=BLUE, label="written")
axes.set_yticks(places, [step.name for step in steps])
axes.invert_yaxis()
axes.set_title("MB moved by each step: composed of grouped matmuls (above), and fused (below)")
axes.legend()
show(whole, "Five bars of the composed layer, two shorter ones of the fused layer, each split into read and written.")
composed, fused = traffic.together(traffic.COMPOSED), traffic.together(traffic.FUSED)
print(f"composed {composed:.0f} MB, fused {fused:.0f} MB: {composed / fused:.1f} times as much")
assert traffic.X == 4096 * 5120 * 2 / 1e6 and composed > 2.5 * fused

# %% [markdown]
# The fused layer gathers tokens as it loads them, applies SwiGLU to sums that are still in registers, and adds the result
# where it belongs. [Its page](../docs/kernels/moe-layer.md) takes it apart.
#
# ## The floor
#
# No kernel is faster than its FLOPs at the card's speed, nor than its bytes at the speed of its memory. The longer of the two
# times is the **floor**. With few tokens it is set by the bytes of the weights, and rises with the experts that are met. With
# many it is set by the FLOPs. Where it turns depends on the card. As an example, worked out and not measured, an *invented*
# card of 800 TFLOP/s and 4 TB/s:

# %%
card = {"product_tflops": 800.0, "read_tb_s": 4.0}
floors, compute = [], []
for tokens in layers.TOKENS:
    chosen_E = layers.routes(tokens, scout.experts, "uniform", torch.device("cpu")).argmax(-1)
    used = len(chosen_E.unique())
    record = {"flops": scout.layer_flops(tokens), "bytes": scout.layer_bytes(used)}
    floors.append(plot.floor_ms(record, card))
    compute.append(plot.floor_ms(record | {"bytes": 0}, card))
whole, axes = figure(6.5, 2.6)
lines(axes, {"the floor": (layers.TOKENS, floors), "its FLOPs alone": (layers.TOKENS, compute)}, marker="o")
logarithmic(axes)
axes.set_ylim(3e-4, 30)
axes.set_title("a MoE layer of Scout on an invented card: milliseconds at least")
axes.set_xlabel("tokens")
show(whole, "The floor rises while more experts are met, is flat once all are, and then follows the FLOPs.")
assert floors[-1] == compute[-1] and floors[0] > 10 * compute[0] and floors[3] < 1.2 * floors[2]

# %% [markdown]
# ## Measured
#
# Numbers of speed come from one command, `python kernels/benchmarks/run.py`, which writes its results as files. What follows
# is read from those that are in the repository, and from nothing else. On a machine with a GPU the cell also times the product
# itself.

# %%
files = sorted(Path("../kernels/benchmarks/results").glob("*.json"))
results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
timed = [one for one in results if one.get("ceilings", {}).get("product_tflops")]
print(plot.table(timed[-1]) if timed else "Nothing has been measured yet.")
if TRITON and CUDA:
    x_ND, w_EDF = torch.randn(4096, 5120).to(device, narrow), torch.randn(16, 5120, 8192).to(device, narrow)
    ends_E = torch.arange(1, 17, device=device) * 256
    for name, run in (("grouped_matmul", grouped_matmul), ("the loop, or torch's kernel", eager_grouped_matmul)):
        ms, how = median_ms(lambda run=run: run(x_ND, w_EDF, ends_E), tokens=4096)
        print(f"here, 4096 tokens, one up projection of Scout: {name} {ms:.3f} ms ({how})")
assert CUDA or median_ms(lambda: None) == (None, "not timed")

# %% [markdown]
# ## Exercises
#
# **1.** Group ends 1, 1, 1, 7 and tiles of four rows: which tiles are there?
#
# <details><summary>Answer</summary>
#
# Three. Expert 0 has one with a single row; experts 1 and 2 have none; expert 3 has rows 1 to 4 and rows 5 to 6.
#
# </details>
#
# **2.** How many programs does the host launch for the first kernel's row tiles, with 16,384 tokens, 16 experts and tiles of
# 64 rows? How many are idle if every expert has 1024 tokens?
#
# <details><summary>Answer</summary>
#
# 16384 // 64 + 16 = 272. All groups are multiples of 64, so 256 tiles are full and 16 programs return at once.
#
# </details>

# %% [markdown]
# **3.** In the fast forward kernel a tile may multiply rows of the next group by the wrong weight, and nobody minds. Why would
# the same be an error in the weight gradient?
#
# <details><summary>Answer</summary>
#
# In the forward product a foreign row makes a foreign row of the output, which is not stored. In the gradient the rows are what
# is summed over: a foreign row would be part of every number.
#
# </details>

# %%
assert grid.row_tiles([1, 0, 0, 6], 4) == [(0, 0, 1), (3, 1, 4), (3, 5, 2)]
assert 16384 // 64 + 16 == 272 and len(grid.row_tiles([1024] * 16, 64)) == 256
foreign = even[0].clone()
foreign[5:] *= 100  # every group but the first is changed, and the first one's result is not
run = grouped_matmul if TRITON else eager_grouped_matmul
assert torch.equal(run(foreign, *even[1:])[:5], run(*even)[:5])

# %% [markdown]
# ## Source
#
# - [`ops.eager_grouped_matmul`](../llama4/ops.py#L111): the loop.
# - [`naive.multiply`](../kernels/llama4_kernels/naive.py#L89) and
#   [`persistent.multiply`](../kernels/llama4_kernels/persistent.py#L85): the two kernels.
# - [`tiles.rows_of`](../kernels/llama4_kernels/tiles.py#L30) and [`tiles.in_bands`](../kernels/llama4_kernels/tiles.py#L42)
# - [`grouped.grouped_matmul`](../kernels/llama4_kernels/grouped.py#L20): the operator, with its gradient.
# - [`grid.order`](../kernels/benchmarks/grid.py#L29), [`traffic.py`](../kernels/benchmarks/traffic.py) and
#   [`shapes.py`](../kernels/benchmarks/shapes.py): what the pictures are drawn from.
