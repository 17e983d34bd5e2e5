# %% [markdown]
# # 02 · Pictures to tiles to patches
#
# *A picture of any size becomes square tiles, a tile becomes patches, four patches become one token; you follow every
# pixel and every separator.*
#
# A text model reads a row of tokens. To show it a picture, the picture must become a row of tokens too. Llama 4 does
# this in four steps:
#
# 1. choose a **canvas**, a grid of square tiles that suits the picture's shape, and lay the picture on it;
# 2. cut it into **tiles**, and add one more with the whole picture, shrunk;
# 3. cut each tile into **patches** and let the **vision encoder** work on them;
# 4. join each 2 × 2 square of patches into one vector: the **pixel shuffle**.
#
# The small default model of this package has tiles of 64 pixels, so that everything fits on a page. Where a number of
# the released models differs, it stands beside. Our picture is glued together from three drawings of the package.

# %%
import torch
from figures import RED, SHADE, cut_lines, figure, matrix, picture, shapes, show
from PIL import Image

import llama4
from llama4.demo.pictures import shown

llm = llama4.load("tiny", dtype="float32")
small, large = llm.config.vision, llama4.Config.scout().vision
scene = Image.new("RGB", (150, 100), "white")
for name, place in (("dog-face", (0, 44)), ("rocket", (50, 4)), ("red-apple", (98, 40))):
    scene.paste(shown(name).picture.resize((48, 48)), place)

whole, axes = figure(2.4, 1.7)
picture(axes, scene, "150 × 100 pixels")
show(whole, "A dog, a rocket and an apple on white.")
assert (small.tile_side, large.tile_side) == (64, 336)

# %% [markdown]
# ## Step one: the canvas
#
# At most 16 tiles may be used, in any grid: 1 × 1, 2 × 3, 1 × 16 and so on. Which one? For each grid compute its
# **scale**: by how much the picture would have to be enlarged to fill it in one direction, its proportions kept. A
# scale of 1 or more means that the picture fits as it is; below 1 it would have to shrink and lose detail.
#
# The rule: of the grids that hold the picture, the one with the *smallest* scale, so that little of the canvas stays
# empty. If none holds it, the one with the largest. If scales are equal, the one with fewer tiles. The picture shows
# the grids up to 4 × 5.


# %%
from matplotlib.patches import Rectangle


def scale(rows: int, columns: int, width: int, height: int, side: int) -> float:
    """By how much a picture grows until it fills a canvas in one direction."""
    return min(columns * side / width, rows * side / height)


chosen = llama4.image.canvas(*scene.size, small.tile_side)
scales = torch.zeros(4, 5)
for row in range(4):
    for column in range(5):
        if (row + 1) * (column + 1) <= 16:
            scales[row, column] = scale(row + 1, column + 1, *scene.size, small.tile_side)
whole, axes = figure(5, 3.2)
matrix(axes, scales, rows=range(1, 5), columns=range(1, 6), numbers=True)
axes.set(ylabel="rows of tiles", xlabel="columns of tiles")
axes.add_patch(Rectangle((chosen[1] - 1.5, chosen[0] - 1.5), 1, 1, fill=False, edgecolor=RED, linewidth=3))
axes.set_title("scale of each grid; 0: too many tiles; framed: chosen")
show(whole, "Scales of the grids up to 4 x 5; the grid of 2 rows and 3 columns is framed.")
assert (scales[2, 2], scales[1, 3]) == (scales[1, 2], scales[1, 2]) and round(scales[1, 1].item(), 2) == 0.85
assert chosen == (2, 3) and scales[1, 2] == scales[scales >= 1].min() and round(scales[1, 2].item(), 2) == 1.28

# %% [markdown]
# The picture of 150 × 100 fits into 2 × 3 tiles, 192 × 128 pixels, with a scale of 1.28. It fits into 3 × 3, 2 × 4 and
# others with the same scale, but those have more tiles. In 2 × 2 tiles it would shrink to 0.85 of its size.
#
# Which canvas does a picture of any size get? Here each point is a size; the darker, the more tiles. Wide pictures get
# wide canvases. A square picture over 256 pixels (4 × 4 tiles) has to shrink: 16 tiles are all there is. The single
# light points on the borders are ties, such as 288 × 216, where fewer tiles do as well.

# %%
sizes = range(8, 401, 8)
grids = {(width, height): llama4.image.canvas(width, height, small.tile_side) for width in sizes for height in sizes}
count = torch.tensor([[grids[width, height][0] * grids[width, height][1] for width in sizes] for height in sizes])
whole, axes = figure(5.2, 4.2)
drawn = axes.imshow(count, cmap=SHADE, vmin=0, vmax=16, extent=(4, 404, 404, 4), interpolation="nearest")
for grid in sorted(set(grids.values())):
    points = [point for point, other in grids.items() if other == grid]
    if len(points) > 40:
        x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
        ink = "white" if grid[0] * grid[1] > 8 else "black"
        axes.text(x, y, f"{grid[0]}×{grid[1]}", ha="center", va="center", fontsize=8, color=ink)
axes.set(xlabel="width in pixels", ylabel="height in pixels", title="rows × columns of the canvas")
whole.colorbar(drawn, label="tiles", shrink=0.8)
show(whole, "A map of canvases: staircase regions, from 1 x 1 at the top left to 4 x 4 at the bottom right.")
assert scale(4, 4, 256, 256, 64) == 1 and grids[256, 256] == (4, 4)
assert grids[64, 64] == (1, 1) and grids[400, 400] == (4, 4) and count.max() <= 16
assert grids[288, 216] == (3, 4) and scale(3, 4, 288, 216, 64) == scale(4, 4, 288, 216, 64)
assert llama4.image.canvas(9000, 100, large.tile_side) == (1, 16)

# %% [markdown]
# ## Step two: lay it down and cut
#
# A picture that fits its canvas is not enlarged to fill it: detail that is not there cannot be won. (One that is
# smaller than a tile is enlarged to a tile's side.) What the picture leaves free, on the right and below, is black.
# Then the cuts. As the last tile comes the **global tile**: the whole picture squeezed into one square, whatever its
# proportions. The tiles carry the detail, the global tile the overview. A picture of one tile needs none.

# %%
tiles, (rows, columns) = llama4.image.tiles(scene, small)
shapes(tiles=tiles)


def as_picture(tile: torch.Tensor) -> Image.Image:
    """Numbers from -1 to 1 as a picture again."""
    return Image.fromarray(((tile + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy())


whole, panels = figure(9.5, 1.5, 1, 8, width_ratios=[1.9] + [1] * 7)
canvas = Image.new("RGB", (columns * 64, rows * 64))
canvas.paste(scene)
picture(panels[0], canvas, "on its canvas")
cut_lines(panels[0], rows, columns, 64, RED)
for number, (axes, tile) in enumerate(zip(panels[1:], tiles, strict=True)):
    picture(axes, as_picture(tile), "global" if number == rows * columns else f"tile {number}")
show(whole, "The canvas with its cuts, then six tiles row by row, then the whole picture squeezed into a square.")
assert list(tiles.shape) == [2 * 3 + 1, 3, 64, 64]
assert as_picture(tiles[4]).tobytes() == canvas.crop((64, 64, 128, 128)).tobytes()

# %% [markdown]
# `[7, 3, 64, 64]` is 7 tiles, 3 colours, 64 × 64 pixels. Colours are numbers from -1 (none) to 1 (full) now, centred on
# zero, as the encoder was trained on them: 0 in the file becomes -1, 255 becomes 1, so the black edge is -1 throughout.

# %%
assert tiles.min() == -1 and tiles.max() == 1
assert (tiles[3][:, 36:] == -1).all()  # the picture ends 100 pixels down: 36 rows into the second row of tiles
assert llama4.image.resized(150, 100, 64, 2, 3) == (150, 100)  # stays as it is
assert llama4.image.resized(20, 10, 64, 1, 1) == (64, 32)  # enlarged to one tile's side
assert llama4.image.resized(800, 600, 64, 3, 4) == (256, 192)  # reduced to fit the canvas

# %% [markdown]
# ## The sequence, token by token
#
# Before we look into a tile, here is the row of tokens that the picture becomes. Each tile is a run of `<|patch|>`
# tokens, 16 for the small model and 144 for Scout. Between them stand **separators**, so that the model knows the grid:
# `<|tile_x_separator|>` between the columns, `<|tile_y_separator|>` after each row, the last one too. `<|image|>`
# announces the global tile.

# %%
from itertools import groupby

from figures import strip

ids = llama4.chat.image_tokens(llm.tokenizer, rows, columns, small.tokens_per_tile)
runs = [(llm.tokenizer.decode([token]), len(list(run))) for token, run in groupby(ids)]
boxes = [f"{size} × {text}" if size > 1 else text for text, size in runs]
kinds = ["picture" if text == "<|patch|>" else "special" for text, _ in runs]
show(strip(boxes, kinds), "Start, tiles with separators between, y separator after each row, image, global tile, end.")
print(len(ids), "tokens")

first, second = "<|tile_x_separator|>", "<|tile_y_separator|>"
separators = [first, first, second] * 2
assert [text for text, size in runs if size == 1] == ["<|image_start|>", *separators, "<|image|>", "<|image_end|>"]
assert [size for _, size in runs].count(small.tokens_per_tile) == len(tiles) == 7

# %% [markdown]
# So a picture of *r* × *c* tiles of *p* tokens costs (*r c* + 1) *p* tokens for pixels, *r c* separators (each tile is
# followed by one), and three markers. A picture of one tile has neither separators nor a global tile:
# `<|image_start|><|image|>`, *p* patches, `<|image_end|>`.


# %%
def cost(rows: int, columns: int, patches: int) -> int:
    """Tokens of a picture."""
    several = rows * columns > 1
    return ((rows * columns + several) * patches) + (rows * columns if several else 0) + 3


for grid in [(1, 1), (1, 2), (2, 3), (4, 4), (16, 1)]:
    for vision in (small, large):
        assert cost(*grid, vision.tokens_per_tile) == len(
            llama4.chat.image_tokens(llm.tokenizer, *grid, vision.tokens_per_tile)
        )
print("this picture here:      ", cost(2, 3, small.tokens_per_tile))
print("800 x 500 px, Scout:    ", cost(*llama4.image.canvas(800, 500, large.tile_side), large.tokens_per_tile))
print("largest picture, Scout: ", cost(4, 4, large.tokens_per_tile))
assert cost(2, 3, 16) == 121 and cost(2, 3, 144) == 1017 and cost(4, 4, 144) == 2467

# %% [markdown]
# Which tokens are which part of the picture? Each tile has 16 of them; the numbers above the tiles count them through.
# In Jupyter there is more to see: point at a token and its part of the picture is framed, or at the picture and its
# token lights up.

# %%
from figures import GREEN, interactive, linked

net = small.grid // small.shuffle  # 4 x 4 tokens a tile
places, seen = [], 0
for token in ids:
    tile, within = divmod(seen, net * net)
    places.append((tile, *divmod(within, net)) if token == llm.tokenizer.patch_id else None)
    seen += token == llm.tokenizer.patch_id
names = {"<|patch|>": "▪", "<|tile_x_separator|>": "x", "<|tile_y_separator|>": "y"}
labels = [names.get(text, text) for text in map(llm.tokenizer.decode, ([token] for token in ids))]

whole, axes = figure(9.5, 1.8, 1, 7)
for number, (panel, tile) in enumerate(zip(axes, tiles, strict=True)):
    picture(panel, as_picture(tile), f"patch tokens\n{number * 16} to {number * 16 + 15}")
    cut_lines(panel, net, net, 64 // net, GREEN, numbered=False)
interactive(
    linked([as_picture(tile) for tile in tiles], labels, places, net), whole, "Seven tiles, each cut into 4 x 4 tokens."
)
assert seen == 7 * 16 and places.count(None) == 6 + 3

# %% [markdown]
# ## Step three: patches
#
# Now into one tile. It is cut into patches of 8 × 8 pixels (Scout: 14 × 14), row by row. A patch is 8 × 8 × 3 = 192
# numbers; one linear map without a bias turns them into a vector of the encoder's width, which happens to be 192 here
# too. (Scout's map goes from 588 to 1408.) Cutting and mapping is what other code writes as a convolution with a
# stride.
#
# In the shapes `R` counts tiles, `P` patches and `C` the encoder's width.

# %%
dog = shown("dog-face").picture
tile, _ = llama4.image.tiles(dog, small)
side, grid = small.patch_side, small.grid
whole, panels = figure(3.6, 3.6, grid, grid)
for number, axes in enumerate(panels.flatten()):
    y, x = divmod(number, grid)
    picture(axes, dog.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)))
    axes.set_xlabel(str(number), fontsize=6, labelpad=1)
show(whole, "The dog's face taken apart into 64 numbered patches.")

encoder = llm.model.vision
x_RPC = encoder.embed(tile)
shapes(tile=tile, x_RPC=x_RPC)
assert (grid, small.patches) == (8, 64) and (large.grid, large.patches) == (24, 576)
assert x_RPC.shape == (1, small.patches + 1, small.width)
assert encoder.patch_embedding.in_features == side * side * 3 == 192 and encoder.patch_embedding.bias is None
assert small.width == 192 and (3 * large.patch_side**2, large.width) == (588, 1408)

# %% [markdown]
# There are 65 rows for 64 patches: the last is the **class token**, a learned vector that is the same for every
# picture. Attention can use it as a notepad; it is thrown away at the end. Let us check the order: if only patch 19
# changes, only row 19 may change.

# %%
changed = tile.clone()
y, x = divmod(19, grid)
changed[0, :, y * side : (y + 1) * side, x * side : (x + 1) * side] += 0.5
rows_changed = ((encoder.embed(changed) - x_RPC).abs() > 1e-4)[0].any(-1).nonzero().flatten().tolist()
print("rows that changed:", rows_changed)
assert rows_changed == [19]
assert torch.equal(x_RPC[0, -1], encoder.class_embedding)

# %% [markdown]
# ## Where a patch stands
#
# A learned vector for each of the 65 rows is added, and inside the encoder's attention every patch's query and key are
# also *turned* by its column and its row: this is RoPE in two dimensions, and chapter 04 explains RoPE. Its effect can
# be seen without the explanation. Give all patches the same vector, turn each by its place, and compare: how similar
# two patches are now depends on how far apart they stand, right and down, and on nothing else.
#
# Each map compares one patch with all 64. The numbers are scaled: 1 is a patch and itself, 0 the least similar pair
# of all.

# %%
from llama4 import rope

cos, sin = rope.vision_rotation(small)
same = torch.ones(small.patches + 1, 1, small.width // small.heads)
turned = rope.rotate(same, (cos, sin))[:, 0]
likeness = turned @ turned.T / turned.shape[-1]
low = likeness[:-1, :-1].min()
whole, panels = figure(9.5, 3.2, 1, 3)
for axes, patch in zip(panels, (0, 27, 62), strict=True):
    matrix(axes, (likeness[patch, :-1].reshape(grid, grid) - low) / (1 - low), numbers=True, highest=1.0)
    axes.set_title(f"how similar to patch {patch}")
show(whole, "Three maps of 8 x 8 patches, each darkest at its own patch.")
apart = likeness[:-1, :-1].reshape(grid, grid, grid, grid)  # row, column of one, row, column of the other
assert torch.allclose(apart[:-1, :, :-1], apart[1:, :, 1:], atol=1e-5)  # both patches one row further down
assert torch.allclose(apart[:, :-1, :, :-1], apart[:, 1:, :, 1:], atol=1e-5)  # and one column to the right
assert apart[0, 0, 0, 1] < 0.999 and apart[0, 0, 1, 0] < 0.999  # either way, a neighbour is not the same
assert torch.allclose(turned[-1], same[-1, 0])  # the class token is not turned

# %% [markdown]
# ## The encoder's layers
#
# A stack of transformer layers. Unlike in the text model, every patch sees every other, before and behind; LayerNorm
# and GELU stand where the text model has RMSNorm and SwiGLU; and there are no experts. Scout's encoder has 34 layers.
# Each tile is a sequence of its own: **tiles do not see each other here**. What is in two tiles meets only later, in
# the text model.
#
# To see it, invert the colours of tile 0 and look at all tiles' tokens. (They are 16 a tile and no longer 65, since the
# encoder ends with step four, which comes next.)

# %%
with torch.inference_mode():
    tokens = encoder(tiles)
    other = tiles.clone()
    other[0] = -tiles[0]
    after = encoder(other)
shapes(tiles=tiles, tokens=tokens)
moved = (after - tokens).abs().amax(dim=(1, 2))
print("change of each tile's tokens when tile 0 is inverted:", [f"{value:.1f}" for value in moved.tolist()])
assert moved[0] > 0.1 and moved[1:].max() < 1e-4
assert large.layers == 34

# %% [markdown]
# ## Step four: pixel shuffle, patch by patch
#
# 64 patches a tile would be 64 tokens, and Scout's 576 patches would be 576. Each token costs time in every layer of
# the text model, so four patches share one: each 2 × 2 square is laid side by side into one vector, four times as wide.
# Nothing is lost or averaged, it only changes its place. To see it, let each "patch vector" be just the patch's own
# number.

# %%
from llama4.vision import pixel_shuffle

number_RPC = torch.arange(small.patches, dtype=torch.float32)[None, :, None]
shuffled = pixel_shuffle(number_RPC, small)
shapes(number_RPC=number_RPC, shuffled=shuffled)
token_of = torch.empty(small.patches)
for token, patches in enumerate(shuffled[0].long()):
    token_of[patches] = token

whole, (left, right) = figure(8.5, 3.6, 1, 2, width_ratios=[1, 1])
checks = {0: ("", "#cfe5f2"), 1: ("", "#f8dca8")}
matrix(left, (token_of // net + token_of % net).reshape(grid, grid) % 2, classes=checks)
for patch in range(small.patches):
    left.text(patch % grid, patch // grid, str(patch), ha="center", va="center", fontsize=7)
left.set_title("patches; a square of one colour becomes one token")
left.get_legend().remove()
matrix(right, shuffled[0, :8], rows=[f"token {n}" for n in range(8)], numbers=True, highest=63)
right.set_title("the four patches of the first eight tokens")
show(whole, "Left the 8 x 8 patches in 2 x 2 squares, right the patch numbers of each token.")
assert shuffled[0, 0].tolist() == [0, 1, 8, 9] and shuffled[0, 5].tolist() == [18, 19, 26, 27]

# %% [markdown]
# Token 0 holds patches 0, 1, 8 and 9: a square, row by row. Behind the shuffle stands the **adapter**, two linear maps
# with a GELU after each, and then one more map, the **projection**, to the width of the text model. Here are all
# stations of one tile, shape by shape, each computed by the piece of the model that the whole model runs:

# %%
with torch.inference_mode():
    x_RPC = encoder.norm_pre(encoder.embed(tile) + encoder.position_embedding)
    for layer in encoder.layers:
        x_RPC = layer(x_RPC, (cos, sin))
    patches = encoder.norm_post(x_RPC)[:, :-1]  # the class token is dropped
    squares = pixel_shuffle(patches, small)
    adapted = encoder.adapter(squares)
    projected = llm.model.fusion.projection(adapted)
shapes(tile=tile, x_RPC=x_RPC, patches=patches, squares=squares, adapted=adapted, projected=projected)
assert torch.allclose(adapted, encoder(tile), atol=1e-4)
assert squares.shape == (1, 16, 4 * small.width) and projected.shape[-1] == llm.config.width

# %% [markdown]
# And the released models' encoder, on the `meta` device, where tensors have shapes and no numbers: seven tiles of 336 ×
# 336 pixels, 576 patches each, become 7 × 144 tokens. Behind the adapter they are 4096 wide; the projection makes that
# the text model's 5120.

# %%
with torch.device("meta"):
    released = llama4.vision.VisionEncoder(large)
    big_tiles = torch.empty(7, 3, large.tile_side, large.tile_side)
    big_tokens = released(big_tiles)
shapes(big_tiles=big_tiles, big_tokens=big_tokens)
count = sum(weight.numel() for weight in released.parameters())
print(f"{count:,} parameters")
assert big_tokens.shape == (7, 144, 4096) and count == 850_960_896 and llama4.Config.scout().width == 5120

# %% [markdown]
# ## Exercises
#
# **1.** A picture is 64 pixels wide and 65 high. How many tokens does it cost the small model, and how many if it were
# one pixel less high?
#
# <details><summary>Answer</summary>
#
# 65 pixels do not fit into one tile, so it gets 2 × 1 tiles and a global tile: 3 · 16 + 2 + 3 = 53 tokens. With 64
# pixels it is one tile and 16 + 3 = 19 tokens.
#
# </details>
#
# **2.** Which patches does token 6 hold?
#
# <details><summary>Answer</summary>
#
# Four tokens make a row, so token 6 is in row 1, column 2: patches of rows 2 and 3, columns 4 and 5, which are 20, 21,
# 28 and 29.
#
# </details>

# %% [markdown]
# **3.** Why is there a global tile, if the other tiles hold all pixels?
#
# <details><summary>Answer</summary>
#
# Tiles do not see each other in the encoder. A face that a cut runs through is whole in no tile but the global one.
#
# </details>

# %%
assert llama4.image.canvas(64, 65, 64) == (2, 1) and cost(2, 1, 16) == 53
assert llama4.image.canvas(64, 64, 64) == (1, 1) and cost(1, 1, 16) == 19
assert shuffled[0, 6].tolist() == [20, 21, 28, 29]

# %% [markdown]
# ## Source
#
# - [`image.canvas`](../llama4/image.py#L64), [`image.resized`](../llama4/image.py#L84),
#   [`image.tiles`](../llama4/image.py#L41): steps one and two.
# - [`chat.image_tokens`](../llama4/chat.py#L85): the sequence with its separators.
# - [`vision.VisionEncoder`](../llama4/vision.py#L85), [`vision.VisionEncoder.embed`](../llama4/vision.py#L106),
#   [`vision.pixel_shuffle`](../llama4/vision.py#L114), [`vision.Adapter`](../llama4/vision.py#L73).
# - [`rope.vision_rotation`](../llama4/rope.py#L68): how a patch knows its place.
