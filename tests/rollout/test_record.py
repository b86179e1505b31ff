import os

import numpy as np
import pytest
from PIL import Image

from tests.rollout.fake_sim import HORIZON, PointEnv, PointRenderer
from trcl_policy.rollout.record import draw, record_episode, record_episodes, side_by_side, tiled
from trcl_policy.rollout.video import contact_sheet, frame_rate, write_animation, write_mp4, write_png

NEAR, FAR = 1, 3  # seeds: every third goal is out of reach


class Pilot:
    """Steers the point; counts its resets."""

    def __init__(self):
        self.resets = 0

    def reset(self):
        self.resets += 1

    def select_action(self, observation):
        assert observation.shape[1:] == (4,)
        return np.clip(20 * (observation[:, 2:] - observation[:, :2]), -1, 1)


def shades(count, height=32, width=48):
    """Frames of rising brightness."""
    return [np.full((height, width, 3), 20 + 200 * n // max(1, count - 1), np.uint8) for n in range(count)]


def decoded(path):
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        return frames, stream


# ---- episodes ----


def test_trace_ends_at_success_and_starts_with_the_start():
    env, pilot = PointEnv(), Pilot()
    trace = record_episode(env, pilot, NEAR)
    assert pilot.resets == 1
    assert env.seeds == [NEAR]
    assert len(trace.scenes) == trace.length + 1 == len(trace.success) + 1
    assert trace.success.tolist() == [False] * (trace.length - 1) + [True]
    assert trace.solved_at == trace.length < HORIZON
    assert trace.scenes[0].state.tolist() == [0, 0, 0]
    assert [scene.state[-1] for scene in trace.scenes] == list(range(trace.length + 1))


def test_extra_steps_follow_the_first_success_and_the_horizon_holds():
    short = record_episode(PointEnv(), Pilot(), NEAR)
    longer = record_episode(PointEnv(), Pilot(), NEAR, extra_steps=5)
    assert (longer.length, longer.solved_at) == (short.length + 5, short.length)
    assert record_episode(PointEnv(), Pilot(), NEAR, extra_steps=999).length == HORIZON
    failed = record_episode(PointEnv(), Pilot(), FAR)
    assert (failed.length, failed.solved_at) == (HORIZON, None)
    with pytest.raises(ValueError, match="extra_steps must be >= 0"):
        record_episode(PointEnv(), Pilot(), NEAR, extra_steps=-1)


def test_episode_stops_where_the_physics_broke():
    trace = record_episode(PointEnv(broken_at=4), Pilot(), 2)
    assert (trace.length, len(trace.scenes)) == (3, 4)


def test_episodes_recorded_together_are_those_recorded_alone():
    seeds = [NEAR, FAR, 2, 4]
    together = record_episodes(PointEnv(broken_at=5), Pilot(), seeds, extra_steps=3)
    assert len({trace.length for trace in together}) >= 3
    for seed, trace in zip(seeds, together, strict=True):
        alone = record_episode(PointEnv(broken_at=5), Pilot(), seed, extra_steps=3)
        assert (trace.length, trace.success.tolist()) == (alone.length, alone.success.tolist())
        for scene, other in zip(trace.scenes, alone.scenes, strict=True):
            np.testing.assert_array_equal(scene.state, other.state)


# ---- drawing ----


def badge(frame, ground):
    """Whether the lower left corner has the badge's colour."""
    return tuple(frame[-2, 1]) == ground


def test_badge_tells_success_from_the_first_solved_scene_on_and_failure_at_the_end():
    from trcl_policy.rollout.record import FAILURE_COLOUR, SUCCESS_COLOUR

    trace = record_episode(PointEnv(), Pilot(), NEAR, extra_steps=3)
    good = [badge(frame, SUCCESS_COLOUR) for frame in draw(trace, PointRenderer(128))]
    assert good == [number >= trace.solved_at for number in range(trace.length + 1)]
    failed = record_episode(PointEnv(), Pilot(), FAR)
    frames = list(draw(failed, PointRenderer(128)))
    assert [badge(frame, FAILURE_COLOUR) for frame in frames] == [False] * HORIZON + [True]
    assert not any(badge(frame, SUCCESS_COLOUR) for frame in frames)


def test_captions_lie_on_a_strip_at_the_top_and_leave_the_rest_alone():
    trace = record_episode(PointEnv(), Pilot(), FAR)
    plain, written = (
        next(draw(trace, PointRenderer(128))),
        next(draw(trace, PointRenderer(128), ["hammer", "after task 1"])),
    )
    np.testing.assert_array_equal(plain, PointRenderer(128).frame(trace.scenes[0]))
    changed = (plain != written).any(axis=(1, 2))
    height = int(changed.sum())
    assert changed[:height].all()
    assert 20 < height < 50
    assert written[:height].max() > 240  # white ink
    other = next(draw(trace, PointRenderer(128), ["hammer", "after task 2"]))
    assert (other != written).any()


def test_long_captions_shrink_to_fit_and_small_frames_work():
    trace = record_episode(PointEnv(), Pilot(), NEAR)
    long = "a very long caption about a task and a checkpoint"
    wide = next(draw(trace, PointRenderer(256), [long]))
    assert wide[:30, -3:].max() < 200  # the ink ends before the edge
    for frame in draw(trace, PointRenderer(16), [long, long, long]):
        assert frame.shape == (16, 16, 3)


def test_drawing_does_not_write_into_the_renderers_picture():
    picture = np.zeros((64, 64, 3), np.uint8)

    class Reusing(PointRenderer):
        def frame(self, scene):
            return picture

    list(draw(record_episode(PointEnv(), Pilot(), NEAR), Reusing(), ["caption"]))
    assert picture.max() == 0


def test_panels_stand_side_by_side_and_the_shorter_holds_its_last_frame():
    left, right = shades(3), shades(5, width=20)
    frames = list(side_by_side([left, iter(right)], gap=4))
    assert len(frames) == 5
    assert frames[0].shape == (32, 48 + 4 + 20, 3)
    assert frames[0][:, 48:52].max() == 0
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame[:, :48], left[min(number, 2)])
        np.testing.assert_array_equal(frame[:, 52:], right[number])


def test_grid_is_read_like_text_and_the_shorter_hold_their_last_frame():
    panels = [shades(3), shades(5), shades(2)]
    frames = list(tiled([iter(panel) for panel in panels], columns=2, captions=["caption"], gap=2))
    strip = len(frames[0]) - (2 * 32 + 2)
    assert len(frames) == 5
    assert frames[0].shape == (strip + 66, 2 * 48 + 2, 3)
    assert strip > 10
    assert frames[0][:strip].max() > 240  # white ink
    for number, frame in enumerate(frames):
        grid = frame[strip:]
        np.testing.assert_array_equal(grid[:32, :48], panels[0][min(number, 2)])
        np.testing.assert_array_equal(grid[:32, 50:], panels[1][number])
        np.testing.assert_array_equal(grid[34:, :48], panels[2][min(number, 1)])
        assert grid[34:, 48:].max() == grid[32:34].max() == 0  # no fourth panel, and the bars
    assert next(tiled([shades(1)], columns=1)).shape == (32, 48, 3)


def test_grids_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="columns must be >= 1, got 0"):
        next(tiled([shades(1)], columns=0))
    with pytest.raises(ValueError, match=r"panels must be of one size, got \[\(32, 48\), \(32, 20\)\] px"):
        next(tiled([shades(1), shades(1, width=20)], columns=2))


@pytest.mark.parametrize(
    ("panels", "line"),
    [
        ([], "panels must be at least one"),
        ([[], shades(1)], "none of them empty"),
        ([shades(1), shades(1, height=16)], r"panels must be equally high, got \[32, 16\] px"),
    ],
)
def test_panels_that_do_not_fit_are_named(panels, line):
    with pytest.raises(ValueError, match=line):
        list(side_by_side(panels))


# ---- files ----


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_mp4_plays_back_what_was_written(tmp_path, size):
    import av

    frames = shades(12, *size)
    assert write_mp4(tmp_path / "deep" / "a.mp4", iter(frames), fps=12.5) == 12
    played, stream = decoded(tmp_path / "deep" / "a.mp4")
    assert len(played) == 12
    assert played[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert max(abs(int(a.mean()) - int(b.mean())) for a, b in zip(frames, played, strict=True)) <= 4
    assert float(stream.average_rate) == 12.5
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = (tmp_path / "deep" / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # index first
    assert os.listdir(tmp_path / "deep") == ["a.mp4"]
    assert av.open(str(tmp_path / "deep" / "a.mp4")).streams.video[0].frames == 12


def test_failing_frames_leave_the_old_video_and_nothing_beside(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")

    def broken():
        yield from shades(3)
        raise RuntimeError("renderer died")

    with pytest.raises(RuntimeError, match="renderer died"):
        write_mp4(tmp_path / "a.mp4", broken(), fps=20)
    with pytest.raises(ValueError, match="frames must hold at least one frame, got none"):
        write_mp4(tmp_path / "a.mp4", [], fps=20)
    with pytest.raises(ValueError, match=r"frames must all be \(32, 48, 3\) uint8, got \(16, 48, 3\)"):
        write_mp4(tmp_path / "a.mp4", [*shades(1), *shades(1, height=16)], fps=20)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animation_keeps_its_speed_at_no_more_than_25_frames_a_second(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert write_animation(path, shades(40), fps=80, width=24) == 10
    with Image.open(path) as picture:
        assert (picture.size, picture.n_frames) == ((24, 16), 10)
        picture.seek(3)
        picture.load()
        assert picture.info["duration"] == 50
        shown = np.asarray(picture.convert("RGB")).mean()
    assert abs(shown - shades(40)[12].mean()) < 6
    with pytest.raises(ValueError, match=r"path must end in .gif or .webp, got a.png"):
        write_animation(tmp_path / "a.png", shades(2), fps=10)


def test_contact_sheet_spreads_frames_from_first_to_last(tmp_path):
    frames = shades(11)
    sheet = contact_sheet(frames, columns=3, rows=2, gap=4)
    assert sheet.shape == (2 * 32 + 4, 3 * 48 + 8, 3)
    assert [sheet[16 + 36 * r, 24 + 52 * c, 0] for r in range(2) for c in range(3)] == [
        frames[2 * n][0, 0, 0] for n in range(6)
    ]
    assert sheet[33, 0, 0] == sheet[0, 49, 0] == 255
    write_png(tmp_path / "a.png", sheet)
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), sheet)
    with pytest.raises(ValueError, match="columns, rows and frames must be >= 1, got 0, 1 and 11"):
        contact_sheet(frames, columns=0)


def test_frame_rate_is_one_frame_a_control_step():
    assert frame_rate(80.0) == 80.0
    assert frame_rate(80.0, speed=0.25) == 20.0
    with pytest.raises(ValueError, match=r"must be > 0, got 0 and 1\.0"):
        frame_rate(0)


@pytest.mark.sim
def test_real_episode_is_drawn_with_its_badge(tmp_path):
    pytest.importorskip("metaworld")
    from trcl_envs.catalog import make_env, make_expert, make_renderer
    from trcl_envs.interface import SimulationError

    expert = make_expert("window-close-v3")

    class Expert:
        def reset(self):
            expert.reset(1)

        def select_action(self, observation):
            return np.clip(expert.actions(observation), -1, 1)

    trace = record_episode(make_env("window-close-v3", 1), Expert(), seed=5, extra_steps=2)
    assert trace.success.any()
    try:
        renderer = make_renderer("window-close-v3", 96, 96)
    except SimulationError as error:
        pytest.skip(str(error))
    frames = list(draw(trace, renderer, ["window-close"]))
    renderer.close()
    assert len(frames) == trace.length + 1
    assert frames[0].std() > 20
    assert (frames[0] != frames[-1]).mean() > 0.02
    assert write_mp4(tmp_path / "a.mp4", frames, frame_rate(trace.info.control_frequency)) == len(frames)
