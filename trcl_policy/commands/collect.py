"""``trcl collect``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trcl_policy.files import FileError
from trcl_policy.schema import ConfigError

if TYPE_CHECKING:
    from trcl_policy.data.store import EpisodeStore

PATIENCE = 1.0
"""Seconds between two looks at a store that another process is appending to."""


@dataclass(frozen=True)
class Collect:
    """Drive scripted experts and keep their successful episodes; waits while another process fills the same store.

    Attributes:
        tasks: a sequence (quick, cw10, mt50; see trcl tasks), task names joined by commas, or a YAML file with a list.
        out: episode store to write or to go on with.
        episodes: successful episodes of each task.
        seed: seed of start states and noise.
        noise: standard deviation of Gaussian noise on the expert's actions.
        extra_steps: control steps kept after the first success.
        worlds: simulated worlds side by side.
        threads: physics threads.
        cameras: cameras whose pictures are kept, joined by commas (robot, front, or one of the task's own); none where
            not given.
        image_size: height and width of the pictures [pixels].
        env_python: Python of another virtual environment that simulates, such as robosuite's.
    """

    out: Path
    tasks: str = "quick"
    episodes: int = 50
    seed: int = 0
    noise: float = 0.1
    extra_steps: int = 0
    worlds: int = 25
    threads: int = 2
    cameras: str = ""
    image_size: int = 64
    env_python: str | None = None


def collect(options: Collect) -> int:
    """Run ``trcl collect``."""
    from trcl_envs.catalog import resolve_sequence
    from trcl_policy.folder import provenance
    from trcl_policy.rollout.collect import collect as fill
    from trcl_policy.simulation import Simulation

    for name in ("episodes", "worlds", "threads", "image_size"):
        if getattr(options, name) < 1:
            raise ConfigError(f"{name} must be >= 1, got {getattr(options, name)}")
    cameras = tuple(camera.strip() for camera in options.cameras.split(",") if camera.strip())
    tasks, simulation = dict.fromkeys(resolve_sequence(options.tasks)), Simulation(options.env_python)
    if options.out.exists():
        store = open_when_free(options.out)
    else:
        for camera in cameras:  # whatever is wrong with one shows before the store is there
            simulation.make_renderer(next(iter(tasks)), options.image_size, options.image_size, camera).close()
        facts = {key: value for key, value in provenance().items() if key in ("packages", "python", "git_commit")}
        facts |= {"simulator": simulation.versions()} if options.env_python else {}
        store = create_or_open(options.out, facts)
    with store:
        for task in tasks:
            report = fill(
                store,
                lambda name, worlds: simulation.make_env(name, worlds, options.threads),
                simulation.make_expert,
                task,
                options.episodes,
                seed=options.seed,
                noise=options.noise,
                num_worlds=options.worlds,
                extra_steps=options.extra_steps,
                cameras=cameras,
                image_size=options.image_size,
            )
            print(
                f"{task}: {report.kept} new episodes, {report.already} already there, "
                f"{report.failed} failures thrown away, {report.steps} steps in {report.seconds:.1f} s"
            )
        print(f"{options.out}: {len(store)} episodes, fingerprint {store.fingerprint()[:12]}")
    return 0


def create_or_open(path: Path, provenance: Mapping[str, Any]) -> EpisodeStore:
    """Make a store; where another process has made it meanwhile, open that one when it is free."""
    from trcl_policy.data.store import EpisodeStore

    try:
        return EpisodeStore.create(path, provenance=provenance)
    except (FileError, ValueError):
        if not path.exists():
            raise
        return open_when_free(path)


def open_when_free(path: Path) -> EpisodeStore:
    """Open a store for appending; where another process is at it, says so once and waits until it is done."""
    from trcl_policy.data.arrays import BusyError
    from trcl_policy.data.store import EpisodeStore

    told = False
    while True:
        try:
            return EpisodeStore.open(path, "a")
        except BusyError:
            if not told:
                print(f"{path}: another process is appending to it, waiting", flush=True)
            told = True
            time.sleep(PATIENCE)
