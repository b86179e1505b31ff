"""Which tasks and sequences there are, and how each is built: the one table at the top of the package.

Names and facts need no simulator; building an environment or an expert does.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trcl_envs import plugins, remote, robosuite_experts, robosuite_tasks, versions
from trcl_envs.interface import Expert, FloatArray, Renderer, TaskInfo, TaskSpec
from trcl_envs.memoryless import ScriptedExpert
from trcl_envs.sequences import SEQUENCES as SEQUENCES
from trcl_envs.sequences import SPELLINGS, is_random, shuffled, split_random

if TYPE_CHECKING:
    from trcl_envs.device import DeviceWorlds
    from trcl_envs.interface import BatchedEnv

BACKENDS = ("cpu", "gpu", "warp-cpu")
DEVICE_BACKENDS = {"gpu": "cuda", "warp-cpu": "cpu"}
"""Backends of which all worlds advance in one batch on a device."""
ENDINGS = ("-v3", "-robosuite")
"""What the name of a task may come without."""


def task_names() -> list[str]:
    """Names of all tasks, sorted."""
    from trcl_envs.metaworld_tasks import TASKS

    return sorted({*TASKS, *robosuite_tasks.TASKS, *plugins.plugin_names(plugins.TASKS)})


def sequence_names() -> list[str]:
    """Names of all sequences: ``SEQUENCES`` and those of other packages."""
    return [*SEQUENCES, *(name for name in plugins.plugin_names(plugins.SEQUENCES) if name not in SEQUENCES)]


def task_info(name: str) -> TaskInfo:
    """The facts of a task; needs no simulator. ``name`` may come without its ``-v3`` or ``-robosuite``."""
    name = resolve_task(name)
    return robosuite_tasks.task_info(name) if name in robosuite_tasks.TASKS else task_spec(name).info


def task_spec(name: str) -> TaskSpec:
    """The task on arrays; its scene is compiled only when a physics backend asks for it.

    Raises:
        ValueError: robosuite's tasks are no such thing.
    """
    name = resolve_task(name)
    if name in robosuite_tasks.TASKS:
        raise ValueError(f"task must be one on arrays, got {name}, whose physics robosuite keeps to itself")
    if is_plugin(name):
        return plugins.load_task(name)
    from trcl_envs.metaworld import task_spec as specify
    from trcl_envs.metaworld_tasks import TASKS

    return specify(name, TASKS[name])


def is_plugin(name: str) -> bool:
    """Whether a task is another package's."""
    return name in plugins.plugin_names(plugins.TASKS)


def observation_bounds(name: str) -> tuple[FloatArray, FloatArray] | None:
    """Lowest and highest observation (Do,) of a task; None where they are unbounded."""
    name = resolve_task(name)
    return None if name in robosuite_tasks.TASKS else task_spec(name).bounds


def make_env(
    name: str,
    num_worlds: int,
    threads: int = 1,
    backend: str = "cpu",
    env_python: str | None = None,
    env_args: Mapping[str, Any] | None = None,
) -> BatchedEnv:
    """Build worlds of one task.

    Args:
        name: a task of ``task_names()``, with or without ``-v3`` or ``-robosuite``.
        num_worlds: N, at least 1.
        threads: CPU threads that advance them, at least 1; changes no result. Other backends and robosuite have no use
            for it.
        backend: ``"cpu"``; ``"gpu"``: all worlds at once on a CUDA device; ``"warp-cpu"``: the same code on the CPU,
            slow, for tests.
        env_python: the Python of the virtual environment in which they are simulated; None = this one.
        env_args: simulate what robomimic's data were recorded in; see ``robosuite_tasks.task_from_env_args``.

    Raises:
        SimulationError: the simulator is not installed, or there is no CUDA device.
    """
    if backend not in BACKENDS:
        raise ValueError(unknown("backend", backend, BACKENDS))
    name = resolve_task(name)
    if env_python is not None:
        return remote.RemoteEnv(env_python, task_info(name), num_worlds, threads, backend, env_args)
    if name in robosuite_tasks.TASKS or env_args is not None:
        from trcl_envs.robosuite import RobosuiteWorlds

        return RobosuiteWorlds(name, num_worlds, described(env_args))
    from trcl_envs.cpu import CpuPhysics
    from trcl_envs.starts import SETTLE_ALIKE
    from trcl_envs.worlds import Worlds

    spec = task_spec(name)
    if backend in DEVICE_BACKENDS:
        return make_device_env(spec, num_worlds, DEVICE_BACKENDS[backend])
    alike = spec.info.name in SETTLE_ALIKE
    return Worlds(spec, CpuPhysics(spec.load_model, num_worlds, threads, spec.contacts, alike))


def make_device_env(spec: TaskSpec, num_worlds: int, device: str) -> DeviceWorlds:
    """Build worlds of one task on a device; ``TRCL_GPU_ROOM`` is the factor on the room for their contacts."""
    from trcl_envs.device import DeviceWorlds
    from trcl_envs.gpu import WarpPhysics

    return DeviceWorlds(spec, WarpPhysics(spec.load_model, num_worlds, spec.contacts, device, read_room()))


def read_room() -> float:
    """The number in ``TRCL_GPU_ROOM``, 1 where it is not set."""
    wish = os.environ.get("TRCL_GPU_ROOM", "").strip() or "1"
    try:
        room = float(wish)
    except ValueError:
        room = 0.0
    if not 0 < room < 1000:
        raise ValueError(f"TRCL_GPU_ROOM must be a number above 0 and below 1000, got {wish!r}")
    return room


def make_expert(name: str, env_python: str | None = None) -> Expert:
    """Build the scripted controller of a task.

    Raises:
        ValueError: the task has none.
        SimulationError: the simulator is not installed.
    """
    name = resolve_task(name)
    if env_python is not None:
        return remote.RemoteExpert(env_python, name)
    if name in robosuite_tasks.TASKS:
        act = robosuite_experts.EXPERTS.get(name)
    elif is_plugin(name):
        act = plugins.load_task(name).expert
    else:
        from trcl_envs.experts import MetaworldExpert
        from trcl_envs.scripted_tasks import SCRIPTS

        if name not in SCRIPTS:
            return MetaworldExpert(name)
        act = SCRIPTS[name].actions
    if act is None:
        raise ValueError(f"task must be one with a scripted expert, got {name}: bring demonstrations of your own")
    return ScriptedExpert(act)


def make_renderer(
    name: str,
    width: int,
    height: int,
    camera: str | None = None,
    env_python: str | None = None,
    env_args: Mapping[str, Any] | None = None,
) -> Renderer:
    """Build what draws the scenes of a task off screen: pictures (height, width, 3) from a named camera.

    Raises:
        SimulationError: this machine can't draw, or the simulator is not installed.
    """
    name = resolve_task(name)
    if env_python is not None:
        return remote.RemoteRenderer(env_python, name, width, height, camera, env_args)
    if name in robosuite_tasks.TASKS or env_args is not None:
        from trcl_envs.robosuite import RobosuiteRenderer

        return RobosuiteRenderer(name, width, height, camera, described(env_args))
    from trcl_envs.render import MujocoRenderer

    return MujocoRenderer(task_spec(name), width, height, camera)


def described(env_args: Mapping[str, Any] | None) -> robosuite_tasks.RobosuiteTask | None:
    """The task that robomimic's ``env_args`` describe, observed by their ``observation_keys`` if they have some."""
    if env_args is None:
        return None
    return robosuite_tasks.task_from_env_args(env_args, tuple(env_args.get("observation_keys", ())))


def simulator_versions(env_python: str | None = None) -> dict[str, str]:
    """Versions of Python and of the packages that simulate, here or in another Python."""
    return remote.simulator(env_python).versions if env_python is not None else versions.simulating()


def resolve_task(name: str) -> str:
    """The registered name of a task that may be written without its version or its simulator."""
    for full in spellings(name):
        if full in robosuite_tasks.TASKS or is_plugin(full):
            return full  # without a look at Meta-World's table, whose needs another environment may lack
    names = task_names()
    for full in spellings(name):
        if full in names:
            return full
    raise ValueError(f"task must be one of {lister(names)}; got {name!r}{hint(name, names)}")


def resolve_sequence(spec: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Registered task names of a sequence.

    Args:
        spec: a name of ``sequence_names()``, comma-separated task names, a list of them, the path of a YAML file that
            holds a list, or a mapping with the list under ``tasks``, or a random order: ``random20:7`` for 20
            different tasks with seed 7, ``shuffle:mt50:7`` for any other spec in an order of seed 7.
    """
    if isinstance(spec, Path) or (isinstance(spec, str) and spec.endswith((".yaml", ".yml"))):
        return resolve_names(read_sequence(Path(spec)), f"tasks in {spec}")
    if not isinstance(spec, str):
        return resolve_names(spec, "tasks")
    if spec in SEQUENCES:
        return SEQUENCES[spec]
    if spec in plugins.plugin_names(plugins.SEQUENCES):
        return resolve_names(plugins.load_sequence(spec), f"tasks of sequence {spec}")
    if is_random(spec):
        which, seed, count = split_random(spec)
        return shuffled(resolve_sequence(which), seed)[:count]
    names = [part.strip() for part in spec.split(",") if part.strip()]
    if len(names) == 1 and not is_task(names[0]):
        accepted, tasks = [*sequence_names(), *SPELLINGS], task_names()
        near = hint(spec, [*accepted, *tasks])
        raise ValueError(f"task or sequence must be one of {', '.join(accepted)}, {lister(tasks)}; got {spec!r}{near}")
    return resolve_names(names, "tasks")


def is_task(name: str) -> bool:
    """Whether this names a task, with or without its version or its simulator."""
    return not set(task_names()).isdisjoint(spellings(name))


def spellings(name: str) -> tuple[str, ...]:
    """Full names that this may be short for, the first that exists counts."""
    return (name, *(name + ending for ending in ENDINGS))


def resolve_names(names: Iterable[Any], what: str) -> tuple[str, ...]:
    """Registered names of a non-empty list of task names."""
    names = list(names)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} must be a non-empty list of task names, got {names}")
    return tuple(resolve_task(name) for name in names)


def read_sequence(path: Path) -> list[Any]:
    """The list in a YAML file."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"tasks: can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"tasks: {path} is no YAML: {' '.join(str(error).split())}") from error
    names = content.get("tasks") if isinstance(content, dict) else content
    if not isinstance(names, list):
        raise ValueError(f"tasks: {path} must hold a list of task names, or one under 'tasks', got {content!r}")
    return names


def unknown(what: str, came: str, accepted: Iterable[str]) -> str:
    """One line that names what is accepted, what came, and the nearest match."""
    accepted = list(accepted)
    return f"{what} must be one of {', '.join(accepted)}; got {came!r}{hint(came, accepted)}"


def lister(tasks: Sequence[str]) -> str:
    """How a message names all tasks, which are too many for one line."""
    return f"the {len(tasks)} that 'trcl tasks' lists"


def hint(came: str, accepted: Sequence[str]) -> str:
    """The nearest match, if there is one, as the end of a message."""
    near = difflib.get_close_matches(came, accepted, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
