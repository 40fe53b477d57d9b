"""Pictures: known pixels at known places, in every accepted type, and what must be refused."""

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from genjax.errors import BadInput, Damaged
from genjax.report import draw, grid, save_png, scatter, side_by_side, write_whole
from genjax.report.pictures import CANVAS, GAP, MARK


def test_grid_puts_every_pixel_in_its_place():
    images = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)
    g = GAP[0]
    expected = [
        [g, g, g, g, g, g, g],
        [g, 0, 1, g, 4, 5, g],
        [g, 2, 3, g, 6, 7, g],
        [g, g, g, g, g, g, g],
        [g, 8, 9, g, g, g, g],
        [g, 10, 11, g, g, g, g],
        [g, g, g, g, g, g, g],
    ]
    assert grid(images, columns=2, pad=1, scale=1)[..., 0].tolist() == expected


def test_enlargement_repeats_pixels():
    images = np.array([10, 20, 30, 40], np.uint8).reshape(1, 2, 2, 1)
    picture = grid(images, pad=0, scale=3)
    assert np.array_equal(picture[..., 0], np.kron([[10, 20], [30, 40]], np.ones((3, 3))))


@pytest.mark.parametrize(("side", "shown"), [(8, 48), (28, 56), (32, 64), (64, 64), (1, 44)])
def test_small_images_are_enlarged_until_they_are_seen(side, shown):
    assert grid(np.zeros([1, side, side, 1]), pad=0).shape == (shown, shown, 3)


@pytest.mark.parametrize(
    ("n", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (10, 2, 5), (16, 4, 4), (64, 8, 8), (7, 2, 4)]
)
def test_the_table_is_nearly_square_with_few_empty_places(n, rows, columns):
    assert grid(np.zeros([n, 1, 1, 1]), pad=0, scale=1).shape == (rows, columns, 3)


def test_floats_round_to_the_nearest_level_and_are_clipped():
    values = np.array([-0.5, 0.0, 0.5, 127.4 / 255, 1.0, 7.0], np.float32).reshape(1, 1, 6, 1)
    assert grid(values, pad=0, scale=1)[0, :, 0].tolist() == [0, 0, 128, 127, 255, 255]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", jnp.bfloat16, bool])
def test_all_floating_types_give_the_same_picture(kind):
    values = np.array([0.0, 1.0, 1.0, 0.0]).reshape(1, 2, 2, 1)
    assert grid(values.astype(kind), pad=0, scale=1)[..., 2].tolist() == [[0, 255], [255, 0]]


def test_arrays_of_jax_are_taken():
    assert grid(jnp.ones([1, 1, 1, 1], jnp.bfloat16), pad=0, scale=1).tolist() == [[[255, 255, 255]]]


def test_uint8_is_unchanged_at_every_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(grid(levels, pad=0, scale=1)[..., 1], levels[0, ..., 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_marked_and_nothing_else(bad):
    images = np.zeros([1, 1, 3, 3])
    images[0, 0, 1, 2] = bad
    assert grid(images, pad=0, scale=1).tolist() == [[[0, 0, 0], list(MARK), [0, 0, 0]]]


def test_colours_and_opacity():
    pixel = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 4)
    assert grid(pixel, pad=0, scale=1).tolist() == [[[255, 0, 0], list(GAP)]]
    assert grid(pixel[..., :3], pad=0, scale=1).tolist() == [[[255, 0, 0], [0, 255, 0]]]


def test_every_reconstruction_stands_below_its_original():
    pairs = np.array([1, 2, 3, 101, 102, 103], np.uint8).reshape(2, 3, 1, 1, 1)
    g = GAP[0]
    picture = side_by_side(pairs, columns=3, pad=3, scale=1)[..., 0]
    assert picture[:, 3:-3:4].tolist() == [
        *[[g] * 3] * 3, [1, 2, 3], [g] * 3, [101, 102, 103], *[[g] * 3] * 3
    ]  # fmt: skip


def test_points_stand_where_their_coordinates_say():
    picture = scatter(np.array([[1.0, 0.5]] * 50))  # the frame is |x|, |y| <= 1
    dark = np.argwhere(picture[..., 0] < 100)
    assert dark[:, 0].mean() == pytest.approx(CANVAS * (1 - 0.5) / 2, abs=2)  # y grows upwards, rows downwards
    assert dark[:, 1].min() >= CANVAS - 6


@pytest.mark.parametrize(("spread", "radius"), [(0.9, 1.0), (1.5, 2.0), (4.9, 5.0), (6.0, 10.0), (0.03, 0.05)])
def test_the_frame_of_points_is_a_round_number(spread, radius):
    picture = scatter(np.array([[spread, 0.0], [-spread, 0.0]]))
    columns = np.argwhere(picture[CANVAS // 2 - 2 : CANVAS // 2 + 2, :, 0] < 250)[:, 1]
    assert columns.max() == pytest.approx(CANVAS / 2 * (1 + spread / radius), abs=3)


def test_points_that_are_not_finite_give_a_marked_border():
    picture = scatter(np.array([[0.0, 0.0], [np.nan, 1.0]]))
    assert tuple(picture[0, 0]) == MARK
    assert tuple(picture[CANVAS // 2, 10]) != MARK
    assert tuple(scatter(np.zeros([1, 2]))[0, 0]) != MARK
    assert tuple(scatter(np.full([3, 2], np.nan))[0, 0]) == MARK


def test_draw_chooses_by_shape():
    pairs, points = np.zeros([2, 3, 4, 4, 1]), np.zeros([5, 2])
    assert np.array_equal(draw(pairs), side_by_side(pairs))
    assert np.array_equal(draw(points), scatter(points))
    assert np.array_equal(draw(pairs[0]), grid(pairs[0]))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros([3, 8, 8]),
        np.zeros([3, 8, 8, 2]),
        np.zeros([0, 8, 8, 1]),
        np.zeros([3, 8, 8, 1], np.int32),
        np.zeros([3, 2, 8, 8, 1]),
        np.zeros([0, 2]),
        np.array(["x"]),
        1.0,
    ],
)
def test_what_is_no_picture_is_refused(values):
    with pytest.raises(BadInput) as error:
        draw(values)
    assert 2 <= len(error.value.lines) <= 3


def test_png_keeps_the_pixels_and_the_step(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, [5, 7, 3]).astype(np.uint8)
    save_png(tmp_path / "a.png", pixels, {"step": 2000, "stage": "über <b>"})
    with PIL.Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
        assert image.text == {"step": "2000", "stage": "über <b>"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    write_whole(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(Damaged, match="No space left"):
        write_whole(tmp_path / "a.txt", "new")
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(Damaged, match="cannot write"):
        write_whole(tmp_path / "absent" / "a.txt", "new")
