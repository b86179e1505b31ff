"""How the tasks of a run are simulated: the one place where commands and runs get environments from.

Heavy packages stay where they are until something is built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trcl_envs import catalog
from trcl_envs.interface import BatchedEnv, Expert, Renderer
from trcl_policy.schema import ConfigError

if TYPE_CHECKING:
    from trcl_policy.folder import RunFolder

ROBOSUITE_TYPE = 1  # robomimic's number of robosuite's environments


@dataclass(frozen=True)
class Simulation:
    """Builds environments, experts and renderers; another process may get a copy of it.

    Attributes:
        env_python: Python of the virtual environment that simulates; None = this one.
        backend: physics backend.
        env_args: tasks that are simulated as robomimic's data say: name -> ``env_args``, with the names of what makes
            up an observation under ``observation_keys``.
    """

    env_python: str | None = None
    backend: str = "cpu"
    env_args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def make_env(self, name: str, num_worlds: int, threads: int = 1) -> BatchedEnv:
        """Worlds of one task."""
        described = self.env_args.get(name)
        return catalog.make_env(name, num_worlds, threads, self.backend, self.env_python, described)

    def make_expert(self, name: str) -> Expert:
        """The scripted controller of a task."""
        return catalog.make_expert(name, self.env_python)

    def make_renderer(self, name: str, width: int, height: int, camera: str | None = None) -> Renderer:
        """What draws the scenes of a task, (height, width) [px]."""
        return catalog.make_renderer(name, width, height, camera, self.env_python, self.env_args.get(name))

    def versions(self) -> dict[str, str]:
        """Versions of Python and of the packages that simulate."""
        return catalog.simulator_versions(self.env_python)


def data_env_args(provenance: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """How the data of each task were simulated, as far as an episode store's provenance says it.

    It says so under ``env_args`` by task, or, where the store was converted from an HDF5 file of robomimic's with
    robosuite's data, under ``robomimic``: ``env_args`` as text and, in ``layout``, what became ``observation.state``.
    """
    told, found = provenance.get("robomimic") or {}, dict(provenance.get("env_args", {}))
    try:
        described = dict(json.loads(told.get("env_args") or "{}"))
    except ValueError:
        raise ConfigError(f"env_args of data.store must be JSON, got {told['env_args']!r:.80}") from None
    if described.get("type") != ROBOSUITE_TYPE:
        return found
    parts = (told.get("layout") or {}).get("observation.state", [])
    keys = [str(part[0]).removeprefix("obs/") for part in parts]
    return {**{task: {**described, "observation_keys": keys} for task in tasks}, **found}


def run_simulation(folder: RunFolder, env_python: str | None = None, backend: str = "cpu") -> Simulation:
    """The simulation of a finished or stopped run, in the Python it was measured in unless another one is named."""
    collected = folder.provenance().get("data", {}).get("collected_with", {})
    config = folder.config()
    described = data_env_args(collected, catalog.resolve_sequence(config.tasks))
    return Simulation(env_python or config.simulation.env_python, backend, described)
