"""Pins the pictures: no augmentation is the drawing itself, each kind of augmentation does what it says and no more, nothing is
mirrored, no edge turns dark, and equal seeds give equal pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import NONE, drawings
from torch import Generator, Tensor

from llama4.train import pictures
from llama4.train.pictures import GREY, Augmentation, field, grid, ground, plain, recolour, spoil, views

SIDE = 16
EXACT = 1e-6  # float32: a few roundings of numbers up to 1


def seeded(seed: int = 1) -> Generator:
    return Generator().manual_seed(seed)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite in float64: [n, y, x, 3] in 0 … 1."""
    colour, cover = rgba[..., :3] / 255, rgba[..., 3:] / 255
    return colour * cover + 1 - cover


def channels_last(view: Tensor) -> np.ndarray:
    return view.permute(0, 2, 3, 1).double().numpy()


@pytest.fixture
def farthest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw from -most to most is `most`."""
    monkeypatch.setattr(pictures, "_spread", lambda count, most, generator: torch.full((count,), float(most)))


def noisy_drawings(count: int = 5) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 2 * SIDE, 2 * SIDE, 4), dtype=np.uint8)


def test_without_augmentation_a_view_is_the_drawing_on_white_at_half_its_size() -> None:
    """A pixel of the view is the mean of four, premultiplied: the composite of the mean is the mean of the composites."""
    for rgba in (drawings(0), noisy_drawings()):
        composite = on_white(rgba)
        halved = (
            composite[:, ::2, ::2] + composite[:, 1::2, ::2] + composite[:, ::2, 1::2] + composite[:, 1::2, 1::2]
        ) / 4
        assert np.abs(channels_last(views(rgba, SIDE, NONE, seeded())) - halved).max() < 2 * EXACT


def test_transparent_black_leaves_no_dark_rim() -> None:
    """White on white stays white wherever the edge falls between two pixels."""
    rgba = np.zeros((40, 32, 32, 4), dtype=np.uint8)
    rgba[:, 8:24, 8:24] = 255
    bent = replace(NONE, turn=45.0, smallest=0.5, largest=1.4, stretch=0.2, shear=0.2, shift=0.3, warp=0.1)
    assert views(rgba, 20, bent, seeded()).min() > 1 - EXACT


def test_values_stay_in_range_and_follow_the_seed() -> None:
    wild = replace(Augmentation(), contrast=1.5, brightness=0.6, hue=180.0, saturation=2.0, noise=0.3)
    one, again, other = (views(noisy_drawings(9), SIDE, wild, seeded(seed)) for seed in (1, 1, 2))
    assert one.shape == (9, 3, SIDE, SIDE) and one.dtype == torch.float32
    assert one.min() >= 0 and one.max() <= 1
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert len({view.numpy().tobytes() for view in views(noisy_drawings(1).repeat(9, 0), SIDE, wild, seeded())}) == 9


def test_an_untouched_view_is_the_plain_drawing_and_the_others_are_what_they_were() -> None:
    """The share is drawn last: whoever is not in it looks as without one. Of 300, four standard deviations of 8."""
    rgba = noisy_drawings(300)
    touched, some = (views(rgba, SIDE, replace(Augmentation(), untouched=share), seeded()) for share in (0.0, 0.3))
    as_drawn = (some == plain(rgba, SIDE)).all(dim=(1, 2, 3))
    assert abs(int(as_drawn.sum()) - 90) <= 32
    assert torch.equal(some[~as_drawn], touched[~as_drawn])
    assert torch.equal(views(rgba, SIDE, replace(Augmentation(), untouched=1.0), seeded()), plain(rgba, SIDE))


@pytest.mark.usefixtures("farthest")
def test_a_turn_of_ninety_degrees_is_counter_clockwise() -> None:
    turned = views(drawings(0), SIDE, replace(NONE, turn=90.0), seeded())
    upright = views(drawings(0), SIDE, NONE, seeded())
    assert (turned - torch.rot90(upright, 1, dims=(2, 3))).abs().max() < 1e-4  # cos(90°) is not quite 0 in float32
    assert (turned - upright).abs().max() > 0.3


@pytest.mark.usefixtures("farthest")
def test_turn_shear_stretch_scale_and_shift_make_one_affine_map() -> None:
    """In the drawing's coordinates: turned after sheared after scaled, then shifted."""
    how = replace(NONE, turn=25.0, smallest=0.7, largest=0.7, stretch=0.3, shear=0.4, shift=0.2)
    angle = math.radians(25)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scale = np.diag([1 / (0.7 * math.exp(0.3)), math.exp(0.3) / 0.7])
    linear = turn @ np.array([[1, 0.4], [0, 1]]) @ scale
    places = (2 * np.arange(SIDE) + 1) / SIDE - 1
    x, y = np.meshgrid(places, places)
    expected = np.stack((x, y), axis=-1) @ linear.T + 0.2
    assert np.abs(grid(1, SIDE, how, seeded())[0].numpy() - expected).max() < 5 * EXACT


def box(view: Tensor) -> tuple[int, int, int, int]:
    """First row, last row, first column, last column that are darker than half."""
    rows, columns = (np.flatnonzero((view.mean(0) < 0.5).any(dim).numpy()) for dim in (1, 0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


@pytest.mark.usefixtures("farthest")
def test_scale_shrinks_shift_moves_and_stretch_widens() -> None:
    """A black square over the middle half of the drawing, seen on 32 px: rows and columns 8 … 23."""
    rgba = np.zeros((1, 64, 64, 4), dtype=np.uint8)
    rgba[:, 16:48, 16:48, 3] = 255

    def seen(**how: float) -> tuple[int, int, int, int]:
        return box(views(rgba, 32, replace(NONE, **how), seeded())[0])

    assert seen() == (8, 23, 8, 23)
    assert seen(smallest=0.5, largest=0.5) == (12, 19, 12, 19)
    assert seen(smallest=1.5, largest=1.5) == (4, 27, 4, 27)
    assert seen(shift=0.25) == (
        4,
        19,
        4,
        19,
    )  # a quarter of half the frame is 4 px; the view looks lower, so it goes up
    assert seen(stretch=math.log(2)) == (12, 19, 0, 31)


def test_no_view_is_mirrored() -> None:
    """The map from view to drawing keeps its orientation: the determinant of its mean slopes is positive, warp included."""
    places = grid(400, SIDE, Augmentation(), seeded()).double()
    across, down = places.diff(dim=2).mean(dim=(1, 2)), places.diff(dim=1).mean(dim=(1, 2))
    determinant = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    assert determinant.min() > 0
    assert across[:, 0].min() > 0 and down[:, 1].min() > 0  # nor upside down


def test_turns_and_scales_fill_their_ranges() -> None:
    how = replace(NONE, turn=14.0, smallest=0.62, largest=1.12)
    across = grid(2000, 4, how, seeded()).diff(dim=2).mean(dim=(1, 2)) * 2  # 4 px a side lie half a unit apart
    angle = torch.rad2deg(torch.atan2(across[:, 1], across[:, 0]))
    scale = 1 / across.norm(dim=-1)
    for values, low, high in ((angle, -14, 14), (scale, 0.62, 1.12)):
        near = (high - low) / 50
        assert low - EXACT * 100 < values.min() < low + near and high - near < values.max() < high + EXACT * 100


def grey_picture() -> tuple[Tensor, Tensor]:
    level = torch.rand(6, 1, 8, 8, generator=seeded()).expand(-1, 3, -1, -1)
    cover = torch.rand(6, 1, 8, 8, generator=seeded(2))
    return level * cover, cover


def test_hue_and_saturation_keep_grey_grey() -> None:
    premultiplied, cover = grey_picture()
    how = replace(NONE, hue=180.0, saturation=1.0)
    assert (recolour(premultiplied, cover, how, seeded()) - premultiplied).abs().max() < EXACT


@pytest.mark.usefixtures("farthest")
def test_a_hue_of_a_third_of_a_turn_makes_red_green() -> None:
    red = torch.tensor([0.8, 0.1, 0.2])[None, :, None, None]
    turned = recolour(red, torch.ones(1, 1, 1, 1), replace(NONE, hue=120.0), seeded())
    assert (turned.flatten() - torch.tensor([0.2, 0.8, 0.1])).abs().max() < EXACT


@pytest.mark.usefixtures("farthest")
def test_contrast_brightness_and_grey_are_what_they_say() -> None:
    colour = torch.tensor([0.5, 0.3, 0.6])
    picture, cover = colour[None, :, None, None], torch.ones(1, 1, 1, 1)

    def seen(**how: float) -> Tensor:
        return recolour(picture, cover, replace(NONE, **how), seeded()).flatten()

    grey = float(colour @ torch.tensor(GREY))
    assert (seen(contrast=math.log(2)) - torch.tensor([0.5, 0.1, 0.7])).abs().max() < EXACT  # away from the middle
    assert (seen(brightness=0.1) - torch.tensor([0.6, 0.4, 0.7])).abs().max() < EXACT
    assert (seen(grey=1.0) - grey).abs().max() < EXACT
    assert (seen(saturation=math.log(1.5)) - (grey + 1.5 * (colour - grey))).abs().max() < EXACT


def test_nothing_is_painted_where_the_drawing_does_not_cover() -> None:
    premultiplied, cover = grey_picture()
    wild = replace(NONE, brightness=0.5, contrast=1.0, hue=90.0)
    painted = recolour(premultiplied, cover * 0.5, wild, seeded())
    assert painted.min() >= 0 and (painted - cover * 0.5).max() <= 0
    assert not recolour(torch.zeros(3, 3, 4, 4), torch.zeros(3, 1, 4, 4), wild, seeded()).any()


def test_a_tinge_is_a_smooth_field_of_colour_over_a_share_of_the_drawings() -> None:
    """0.4 of 2000 is 800 ± 88, four standard deviations. A channel is drawn at its corners, edges and middle."""
    how = replace(NONE, tinged=0.4, tinge=0.2)
    fields = field(2000, 9, how, seeded())
    on = fields.flatten(1).any(1)
    assert abs(int(on.sum()) - 800) < 4 * math.sqrt(2000 * 0.4 * 0.6)
    nodes = fields[on][:, :, ::4, ::4]
    assert nodes.shape[1:] == (3, 3, 3) and abs(float(nodes.std()) - 0.2) < 4 * 0.2 / math.sqrt(2 * nodes.numel())
    channels = nodes.flatten(2).transpose(0, 1).flatten(1)
    assert (torch.corrcoef(channels) - torch.eye(3)).abs().max() < 4 / math.sqrt(channels.shape[1])
    wide = field(200, 65, replace(how, tinged=1.0), seeded())
    steps = torch.cat((wide.diff(dim=2).flatten(), wide.diff(dim=3).flatten()))
    assert steps.abs().max() < 0.25 * wide.abs().max()  # 1/32 of the way between two draws: no edges


def test_a_tinge_is_added_to_the_drawing_alone() -> None:
    premultiplied, cover = grey_picture()
    how = replace(NONE, tinged=1.0, tinge=0.1)
    tinged = recolour(premultiplied, cover, how, seeded())
    assert ((tinged >= 0) & (tinged <= cover)).all()
    spent = seeded()
    recolour(premultiplied, cover, NONE, spent)
    added = field(6, 8, how, spent)
    wanted = torch.minimum((premultiplied + added * cover).clamp_min(0), cover)
    assert (tinged - wanted).abs().max() < EXACT and (tinged - premultiplied).abs().max() > 0.1
    assert not recolour(torch.zeros(3, 3, 8, 8), torch.zeros(3, 1, 8, 8), how, seeded()).any()


def test_without_a_tinge_no_number_is_drawn_for_it() -> None:
    """The stages before `vary` see what they saw before there were tinges: everything behind it is drawn as it was."""
    premultiplied, cover = grey_picture()
    first, second = seeded(), seeded()
    for how, generator in ((Augmentation(), first), (Augmentation(tinge=0.9), second)):
        recolour(premultiplied, cover, how, generator)
    assert torch.equal(first.get_state(), second.get_state())
    after = seeded()
    for draws in (6, 6, 6, 6, 6):  # hue, saturation, grey, contrast, brightness: nothing else
        torch.rand(draws, generator=after)
    assert torch.equal(first.get_state(), after.get_state())


def test_the_ground_is_white_as_often_as_asked() -> None:
    """Four standard deviations of the binomial distribution: 0.35 of 3000 is 1050 ± 105. Of the rest three fifths are flat."""
    behind = ground(3000, 4, replace(NONE, coloured_ground=0.35), seeded())
    coloured = behind[(behind < 1 - EXACT).flatten(1).any(1)]
    assert abs(len(coloured) - 1050) < 4 * math.sqrt(3000 * 0.35 * 0.65)
    flat = ((coloured - coloured[:, :, :1, :1]).abs() < EXACT).flatten(1).all(1).sum()
    assert abs(int(flat) - 0.6 * len(coloured)) < 4 * math.sqrt(len(coloured) * 0.24)
    assert ground(500, 4, NONE, seeded()).min() > 1 - EXACT


def test_softening_takes_detail_and_leaves_flat_colour() -> None:
    flat, noise = torch.full((4, 3, SIDE, SIDE), 0.3), torch.rand(4, 3, SIDE, SIDE, generator=seeded())
    always = replace(NONE, soften=1.0)
    assert (spoil(flat, always, seeded()) - 0.3).abs().max() < EXACT
    assert (spoil(noise, always, seeded()).std(dim=(2, 3)) < 0.8 * noise.std(dim=(2, 3))).all()
    assert torch.equal(spoil(noise, NONE, seeded()), noise)


def test_noise_has_at_most_the_strength_asked_for() -> None:
    """Its standard deviation is the strength times a number from 0 to 1, one a picture."""
    spread = (spoil(torch.full((300, 3, SIDE, SIDE), 0.5), replace(NONE, noise=0.1), seeded()) - 0.5).std(dim=(1, 2, 3))
    assert 0.09 < spread.max() < 0.11 and spread.min() < 0.01


def test_one_rectangle_of_at_most_a_third_of_the_side_is_rubbed_out() -> None:
    share = 0.4
    rubbed = (spoil(torch.ones(1000, 3, 30, 30), replace(NONE, rubbed_out=share), seeded()) == 0.5).all(dim=1)
    hit = rubbed.flatten(1).any(1)
    assert abs(int(hit.sum()) - 1000 * share) < 4 * math.sqrt(1000 * share * (1 - share))
    for one in rubbed[hit]:
        rows, columns = int(one.any(1).sum()), int(one.any(0).sum())
        assert int(one.sum()) == rows * columns and max(rows, columns) <= 11


@pytest.mark.parametrize("side", [64, 24, 13])
def test_plain_is_what_pillow_makes_of_it(side: int) -> None:
    """Both average over the same triangle; Pillow in float32 too, with its weights summed in another order."""
    rgba = np.random.default_rng(4).integers(0, 256, (3, 64, 64, 4), dtype=np.uint8)
    for view, composite in zip(plain(rgba, side), on_white(rgba), strict=True):
        for number in range(3):
            channel = Image.fromarray(composite[..., number].astype(np.float32))
            resized = np.array(channel.resize((side, side), Image.Resampling.BILINEAR))
            assert np.abs(view[number].numpy() - resized).max() < 1e-5
