"""How an episode broke: the last finite state of a world whose physics became non-finite, saved for replay.

A rollout keeps no states. But an episode is defined by (checkpoint, task, seed) alone, so a broken one is simply run
once more by itself, watched this time. The file also holds all actions from the start, because replaying those from the
seed is exact, while a state put back into a simulator lacks what its solver remembers.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_envs.interface import BatchedEnv, FloatArray, Scene
from trcl_policy.files import explained, write_bytes
from trcl_policy.rollout.evaluate import Controller, Episode

FORMAT = 1


@dataclass(frozen=True)
class Dump:
    """The moment in which an episode's physics became non-finite.

    Attributes:
        task: name of the task.
        seed: the episode's seed.
        checkpoint: folder of the policy.
        step: control steps taken before the one that broke it.
        reproduced: it broke again, in this step, when it was run once more; False points to a fault of the machine or,
            on a GPU, to physics that is not bit-reproducible.
        actions: (step + 1, Da) all actions from the start; the last one broke it.
        state: {part: values} the last finite state, such as ``qpos``, ``qvel`` and ``mocap_pos``, or all of it under
            ``state`` where the simulator names no parts.
        physics: packages of the simulator with their versions, such as ``mujoco 3.3.0``.
    """

    task: str
    seed: int
    checkpoint: str
    step: int
    reproduced: bool
    actions: FloatArray
    state: Mapping[str, FloatArray]
    physics: str = ""

    def to_bytes(self) -> bytes:
        """An ``.npz`` file."""
        facts = ("task", "seed", "checkpoint", "step", "reproduced", "physics", "actions")
        arrays: dict[str, Any] = {"format": np.array(FORMAT), **{name: np.array(getattr(self, name)) for name in facts}}
        arrays |= {f"state.{part}": values for part, values in self.state.items()}
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Dump:
        """The dump in an ``.npz`` file.

        Raises:
            ValueError: it is none, or of another format.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                held = {name: file[name] for name in file.files}
            if int(held["format"]) != FORMAT:
                raise ValueError(f"format must be {FORMAT}, got {int(held['format'])}")
            state = {name[6:]: values for name, values in held.items() if name.startswith("state.")}
            texts = {name: str(held[name]) for name in ("task", "checkpoint", "physics")}
            numbers = {name: int(held[name]) for name in ("seed", "step")}
            return cls(reproduced=bool(held["reproduced"]), actions=held["actions"], state=state, **texts, **numbers)  # type: ignore[arg-type]
        except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"no dump of a broken episode: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Replay:
    """What replaying a dump showed.

    Attributes:
        step: control steps before the one that broke the physics this time; None where it stayed finite.
        difference: largest difference between the last finite state and the dump's; 0.0 where they are the same to the
            last bit, None where the physics broke earlier.
        state: {part: values} the state before the dump's last action.
    """

    step: int | None
    difference: float | None
    state: Mapping[str, FloatArray]


def trace(controller: Controller, env: BatchedEnv, checkpoint: str, episode: Episode, physics: str = "") -> Dump:
    """Run a broken episode once more by itself and return how it broke.

    Args:
        controller: the policy.
        env: worlds of the episode's task; one is used.
        checkpoint: folder of the policy.
        episode: the broken one.
        physics: versions of the simulator.
    """
    observation = env.reset([episode.seed])
    controller.reset(episode.task, [episode.seed])
    actions: list[NDArray[np.floating]] = []
    state, failed = parts(env.scene(0)), False
    while len(actions) < episode.length and not failed:
        state = parts(env.scene(0))
        actions.append(np.array(controller.select_action(observation)[0]))
        step = env.step(actions[-1][None])
        observation, failed = step.observation, bool(step.failed[0])
    taken = len(actions) - 1
    reproduced = failed and len(actions) == episode.length
    return Dump(episode.task, episode.seed, checkpoint, taken, reproduced, np.stack(actions), state, physics)


def replay(dump: Dump, make_env: Callable[[str, int], BatchedEnv]) -> Replay:
    """Start the dump's task from its seed, take its actions, and see whether the physics breaks in the same step."""
    env = make_env(dump.task, 1)
    try:
        env.reset([dump.seed])
        state = parts(env.scene(0))
        for taken, action in enumerate(dump.actions):
            state = parts(env.scene(0))
            if env.step(action[None]).failed[0]:
                return Replay(taken, _difference(state, dump.state) if taken == dump.step else None, state)
        return Replay(None, _difference(state, dump.state), state)
    finally:
        env.close()


def parts(scene: Scene) -> dict[str, FloatArray]:
    """The scene's state by the names of its parts; under ``state`` where it names none."""
    if not scene.layout:
        return {"state": np.array(scene.state)}
    ends = np.cumsum(list(scene.layout.values()))
    return dict(zip(scene.layout, np.split(np.array(scene.state), ends[:-1]), strict=True))


def write_dumps(folder: Path, dumps: Iterable[Dump]) -> list[Path]:
    """Write dumps into ``folder`` as ``CHECKPOINT-TASK-SEED.npz``, atomically; returns their paths.

    Raises:
        FileError: the machine refuses.
    """
    written = []
    for dump in dumps:
        name = re.sub(r"[^\w.-]", "_", f"{Path(dump.checkpoint).name}-{dump.task}-{dump.seed}")
        written.append(folder / f"{name}.npz")
        write_bytes(written[-1], dump.to_bytes())
    return written


def read_dump(path: Path | str) -> Dump:
    """The dump in a file.

    Raises:
        FileError: it can't be read.
        ValueError: it is no dump.
    """
    with explained("read", path):
        data = Path(path).read_bytes()
    try:
        return Dump.from_bytes(data)
    except ValueError as error:
        raise ValueError(f"{path} must be a dump of 'trcl evaluate', got {error}") from None


def _difference(state: Mapping[str, FloatArray], other: Mapping[str, FloatArray]) -> float:
    """Largest absolute difference between two states of the same simulator; infinite where they have other parts."""
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in other.items()}:
        return float("inf")
    return max(float(np.abs(value - other[name]).max()) for name, value in state.items())
