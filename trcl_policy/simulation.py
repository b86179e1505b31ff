"""How the tasks of a run are simulated: the one place where commands and runs get environments from.

Heavy packages stay where they are until something is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trcl_envs import catalog
from trcl_envs.interface import BatchedEnv, Expert, Renderer

if TYPE_CHECKING:
    from trcl_policy.folder import RunFolder


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


def data_env_args(provenance: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What an episode store's provenance says under ``env_args``: how each task's data were simulated."""
    return dict(provenance.get("env_args", {}))


def run_simulation(folder: RunFolder, env_python: str | None = None, backend: str = "cpu") -> Simulation:
    """The simulation of a finished or stopped run, in the Python it was measured in unless another one is named."""
    collected = folder.provenance().get("data", {}).get("collected_with", {})
    return Simulation(env_python or folder.config().simulation.env_python, backend, data_env_args(collected))
