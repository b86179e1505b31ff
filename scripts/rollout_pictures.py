"""Speed of pictures of rollouts, as ``benchmark_rollouts.py`` measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from timing import fastest, heading, line, timed

from trcl_envs.catalog import make_env, make_expert, make_renderer
from trcl_envs.interface import Expert, FloatArray, Renderer, SimulationError
from trcl_policy.rollout.record import EpisodeTrace, draw, record_episodes, tiled
from trcl_policy.rollout.video import write_mp4

SIZE = 256  # [px]
TILES = 16
FRAMES = 25


def render(tasks: list[str], rounds: int) -> dict[str, Any]:
    """Frames/s of drawing, of drawing with captions and writing an mp4, and of a grid of sixteen worlds."""
    task = tasks[0]
    env = make_env(task, TILES)
    whole = record_episodes(env, Acting(make_expert(task)), range(TILES))
    traces = [replace(trace, scenes=trace.scenes[:FRAMES]) for trace in whole]
    env.close()
    frames = len(traces[0].scenes)
    try:
        renderers = [make_renderer(task, size, size) for size in (SIZE, SIZE // 2)]
    except SimulationError as error:
        print(f"no pictures: {error}")
        return {}
    with TemporaryDirectory() as folder:
        path, captions = Path(folder) / "a.mp4", [task, "expert"]
        works = {
            "drawing": lambda: timed(lambda: [renderers[0].frame(scene) for scene in traces[0].scenes]),
            "drawing and writing": lambda: timed(
                lambda: write_mp4(path, draw(traces[0], renderers[0], captions), 40.0, progress=False)
            ),
        }
        seconds = fastest(works, rounds)
        name = f"grid of {TILES}, drawing and writing"
        works[name] = lambda: timed(lambda: write_mp4(path, grid(traces, renderers[1], captions), 40.0, progress=False))
        seconds |= fastest({name: works[name]}, 1)
    for renderer in renderers:
        renderer.close()
    pictures = sum(len(trace.scenes) for trace in traces)
    counts = {name: frames for name in works} | {f"grid of {TILES}, drawing and writing": pictures}
    rates = {name: counts[name] / seconds[name] for name in works}
    heading(f"{task}: pictures/s at {SIZE} x {SIZE} px (in the grid {SIZE // 2} x {SIZE // 2})")
    for name, value in rates.items():
        line(name, value, digits=1)
    return {"render": {"task": task, "size": SIZE, "pictures_per_s": rates}}


@dataclass(frozen=True)
class Acting:
    """An expert as a controller."""

    expert: Expert

    def reset(self) -> None:
        """Forget nothing: it has no memory."""

    def select_action(self, observation: FloatArray) -> FloatArray:
        """Actions in [-1, 1]."""
        return np.clip(self.expert.actions(observation), -1, 1)


def grid(traces: Sequence[EpisodeTrace], renderer: Renderer, captions: list[str]) -> Iterator[np.ndarray]:
    """Frames of all traces, four in a row."""
    return tiled([draw(trace, renderer) for trace in traces], 4, captions)
