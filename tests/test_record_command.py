"""``trcl record``: one start state or a grid of them, at moments of a run."""

import av
import pytest

from tests.tiny import TASKS, tiny
from trcl_envs.catalog import task_info

__all__ = ["tiny"]
pytestmark = pytest.mark.sim


def record(tiny, *words):
    done = tiny.trcl("record", tiny.finished, *words)
    if done.status and "OpenGL" in done.stderr:
        pytest.skip(done.stderr.strip())
    return done


def test_grid_of_worlds_is_filmed_at_two_moments(tiny, tmp_path):
    path = tmp_path / "grid.mp4"
    words = ("--task", TASKS[1], "--tile", 3, "--size", 96, "--moments", "learned,forgotten", "--out", path)
    done = record(tiny, *words)
    assert (done.status, done.stdout.strip()) == (0, str(path)), done.stderr
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    width = 2 * (2 * 48 + 2) + 4  # two moments, two columns each, with their bars
    assert stream.width == width
    assert stream.height - 2 * 48 - 2 in range(20, 60)  # two rows under a strip
    assert len(frames) <= task_info(TASKS[1]).horizon + 1
    strip = stream.height - 2 * 48 - 2
    cells = [frames[0][strip + 50 * row :, 50 * column :][:40, :40] for row in (0, 1) for column in (0, 1)]
    assert all(cell.std() > 10 for cell in cells[:3])
    assert cells[3].max() < 20  # no fourth world
    assert (cells[0] != cells[1]).mean() > 0.1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--tile", 17), "tile must be in 1..16 [worlds], got 17"),
        (("--tile", 16, "--size", 3), "size must be >= 4 [pixels], got 3"),
        (("--backend", "gpv"), "backend must be one of"),
    ],
)
def test_impossible_films_are_one_line(tiny, words, line):
    done = record(tiny, *words)
    assert done.status == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tiny.finished.rglob("*.mp4"))
