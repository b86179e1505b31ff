"""Pictures: every image in its place."""

import numpy as np
import pytest
import torch
from PIL import Image

from trcl_policy.images.grids import EMPTY, mosaic, progress_grid, side_by_side, write_png


def flat(*values):
    """Images of 2 x 2 equal pixels."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def tinted(value):
    """A blueless image with red at ``value``, which no letter has."""
    return torch.tensor([value, 1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)


def test_a_mosaic_goes_row_by_row_and_enlarges_whole_pixels():
    images = torch.tensor([[[-1.0, 1.0], [0.0, 0.0]]] * 3).view(3, 1, 2, 2)
    canvas = mosaic(torch.cat([images[:2], flat(1.0)]), 2, scale=2)
    assert canvas.shape == (10, 10, 3)
    assert canvas[:4, :4, 0].tolist() == [[0, 0, 255, 255]] * 2 + [[128] * 4] * 2
    assert np.array_equal(canvas[:4, 6:], canvas[:4, :4])
    assert (canvas[6:, :4] == 255).all()
    colour = mosaic(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1), 1)
    assert colour.tolist() == [[[255, 0, 128]]]


def test_rows_are_tasks_and_columns_are_moments():
    samples = [[tinted(-1.0), None], [tinted(-0.5), tinted(0.0)]]
    picture = progress_grid(samples, ["one", "two"], columns=1, scale=20)
    found = {value: np.argwhere((picture == (value, 255, 0)).all(-1)).mean(0) for value in (0, 64, 128)}
    assert found[0][0] == found[64][0] < found[128][0]
    assert found[0][1] < found[64][1] == found[128][1]
    assert found[128][0] - found[0][0] == 40 + 10
    empty = np.argwhere((picture == EMPTY).all(-1))
    assert empty[:, 0].mean() == pytest.approx(found[128][0], abs=1)  # letters have single such pixels
    assert empty[:, 1].mean() == pytest.approx(found[0][1], abs=1)


def test_panels_stand_side_by_side_under_their_titles(tmp_path):
    left, right = np.full((30, 200, 3), 7, np.uint8), np.full((20, 100, 3), 9, np.uint8)
    picture = side_by_side([left, right], ["forgets", "keeps"])
    assert np.argwhere(picture[..., 0] == 7)[:, 1].max() < np.argwhere(picture[..., 0] == 9)[:, 1].min()
    assert ((picture[:28] < 200).any(-1)).any()
    write_png(tmp_path / "p.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "p.png")), picture)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mosaic(flat(1.0), 0), "columns and scale must be >= 1, got 0 and 1"),
        (lambda: progress_grid([[None]], ["a", "b"]), r"samples must be 2 x 2 for 2 tasks, got \[1\]"),
        (lambda: progress_grid([[None]], ["a"]), "samples must hold images of at least one task, got none"),
        (lambda: side_by_side([], []), "titles must be one a panel, got 0 for 0"),
    ],
)
def test_impossible_pictures_are_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
