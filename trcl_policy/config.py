"""The configuration of a run: typed dataclasses, strict YAML, dotted overrides.

Every field can be set in a YAML file and on the command line (``--training.steps 2000`` or ``training.steps=2000``).
Unknown keys, wrong types and impossible values are one line that names the key, what came and what is accepted.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trcl_policy.continual.methods import METHODS, Options
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.parts import LOOKS_AHEAD
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.trajectory import Network
from trcl_policy.schema import ConfigError, build, copied, field_names, nearest, set_dotted

DOMAINS = ("policy",)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class DataConfig:
    """Where demonstrations come from.

    Attributes:
        store: episode store made by ``trcl collect``.
        episodes: demonstrations used of each task.
        held_out: of these, how many are never trained on and only serve for held-out losses.
    """

    store: str = "data/quick.zarr"
    episodes: int = 50
    held_out: int = 5

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        if not 0 <= self.held_out < self.episodes:
            raise ValueError(f"held_out must be in [0, episodes = {self.episodes}), got {self.held_out}")


@dataclass(frozen=True)
class PolicyConfig:
    """Windows that the policy sees and acts in.

    Attributes:
        n_obs_steps: observations in the history.
        horizon: predicted actions.
        n_action_steps: executed actions before the policy looks again.
        observation_indices: entries of the observation to use, such as ``0:18,36:39``; empty uses all.
        policy_fraction: share of training samples that train the policy; the rest trains the generator.
        min_range: narrowest range of an observation entry that is stretched to [-1, 1] [units of the observation].
    """

    n_obs_steps: int = 1
    horizon: int = 8
    n_action_steps: int = 4
    observation_indices: str = "0:18,36:39"
    policy_fraction: float = 0.5
    min_range: float = 0.05

    def __post_init__(self) -> None:
        """Check every value once."""
        for name in ("n_obs_steps", "horizon", "n_action_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.n_action_steps > self.horizon:
            raise ValueError(f"n_action_steps must be <= horizon = {self.horizon}, got {self.n_action_steps}")
        if not 0 <= self.policy_fraction <= 1:
            raise ValueError(f"policy_fraction must be in [0, 1], got {self.policy_fraction}")
        if not self.min_range > 0:
            raise ValueError(f"min_range must be > 0, got {self.min_range}")
        self.indices(10**6)

    def indices(self, size: int) -> tuple[int, ...]:
        """The chosen entries of an observation of ``size`` numbers."""
        if not self.observation_indices:
            return tuple(range(size))
        chosen: list[int] = []
        for piece in self.observation_indices.split(","):
            try:
                ends = [int(end) for end in piece.split(":")]
                chosen += range(*ends) if len(ends) == 2 else [ends[0]] if len(ends) == 1 else [-1]
            except ValueError:
                chosen.append(-1)
        if not chosen or min(chosen) < 0 or max(chosen) >= size or len(set(chosen)) != len(chosen):
            raise ValueError(
                f"observation_indices must be distinct numbers and ranges below {size} such as '0:18,36:39', "
                f"got {self.observation_indices!r}"
            )
        return tuple(chosen)


@dataclass(frozen=True)
class MethodConfig(Options):
    """The continual-learning method and its knobs.

    Attributes:
        name: a row of ``trcl methods``.
    """

    name: str = "trcl"

    def __post_init__(self) -> None:
        """Check that the method exists and takes its knobs."""
        if self.name not in METHODS:
            raise ValueError(
                f"name must be one of {', '.join(METHODS)}{nearest(self.name, METHODS)}, got {self.name!r}"
            )
        METHODS[self.name].build(self)


@dataclass(frozen=True)
class EvaluationConfig:
    """Rollouts that measure retention after every task.

    Attributes:
        episodes: rollouts of every task seen.
        seed: seed of the first start state; episode n uses seed + n. Keep it away from the seeds of demonstrations.
        at_steps: updates within a task at which the older tasks and the one being learned are rolled out too and their
            held-out losses taken, for re-convergence and transfer. A list, where 0 is the new task before its first
            update, or a text of pieces joined by commas: ``dense`` (0, 2, 5, 10, 20, 50, 100, ...), ``every 100`` (0,
            100, 200, ...) and numbers.
        alone: a finished run of the method ``alone`` on the same tasks and updates, for forward transfer.
        threads: physics threads.
    """

    episodes: int = 25
    seed: int = 1_000_000
    at_steps: str | tuple[int, ...] = ()
    alone: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        """Check every value once."""
        for name in ("episodes", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if not isinstance(self.at_steps, str) and any(step < 0 for step in self.at_steps):
            raise ValueError(f"at_steps must be >= 0, got {list(self.at_steps)}")
        self.updates(1)

    def updates(self, steps: int) -> tuple[int, ...]:
        """The updates that ``at_steps`` means where a task gets ``steps`` of them, rising."""
        if not isinstance(self.at_steps, str):
            return tuple(sorted(set(self.at_steps)))
        return tuple(sorted({step for piece in self.at_steps.split(",") for step in _spelled(piece.strip(), steps)}))


def _spelled(piece: str, steps: int) -> Sequence[int]:
    """The updates below ``steps`` of one piece of ``at_steps``; a bare number is taken as it is."""
    word, _, number = piece.partition(" ")
    if piece == "dense":
        grid = (digit * 10**power for power in range(len(str(steps))) for digit in (2, 5, 10))
        return [0, *(step for step in grid if step < steps)]
    if word == "every" and number.strip().isdecimal() and int(number) > 0:
        return range(0, steps, int(number))
    if piece.isdecimal():
        return [int(piece)]
    raise ValueError(f"at_steps must be a list or made of 'dense', 'every 100' and numbers, got {piece!r}")


@dataclass(frozen=True)
class RunConfig:
    """One run: a sequence of tasks, a method, and how it is measured.

    Attributes:
        domain: what is learned: ``policy``.
        tasks: a sequence (``quick``, ``cw10``, ``random20:7``; ``trcl tasks`` lists them), a YAML file with a list,
            or a list of task names.
        seed: seed of everything random in learning.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16`` (autocast).
        compile: compile the network with torch.compile.
        threads: CPU threads of torch; one is fastest for the small network and safe beside other work.
        log_every: updates between log lines.
        save_every_s: seconds between saves of the resumable state within a task.
    """

    domain: str = "policy"
    tasks: str | tuple[str, ...] = "quick"
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    threads: int = 1
    log_every: int = 50
    save_every_s: float = 60.0
    data: DataConfig = field(default_factory=DataConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    network: Network = field(default_factory=Network)
    diffusion: Diffusion = field(default_factory=Diffusion)
    training: Training = field(default_factory=Training)
    method: MethodConfig = field(default_factory=MethodConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Check every value once."""
        for name, accepted in (("domain", DOMAINS), ("device", DEVICES), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in accepted:
                raise ValueError(
                    f"{name} must be one of {', '.join(accepted)}{nearest(value, accepted)}, got {value!r}"
                )
        for name in ("threads", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.compile and METHODS[self.method.name].update in LOOKS_AHEAD and self.method.second_order:
            raise ValueError(
                f"compile must be false for {self.method.name} unless method.second_order is false, got true: "
                "a compiled network has no second derivatives"
            )
        at_steps = self.evaluation.updates(self.training.steps)
        if any(step >= self.training.steps for step in at_steps):
            raise ValueError(
                f"evaluation.at_steps must be < training.steps = {self.training.steps}, got {list(at_steps)}"
            )


def load_config(source: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration in a YAML file, or of a name in configs/, with dotted ``overrides`` on top.

    Raises:
        ConfigError: the file does not exist or its content can't be used; the message is one line.
    """
    path = find_config(source)
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} must be a readable YAML file, got: {' '.join(str(error).split())}") from None
    return make_config(document or {}, overrides or {}, str(path))


def make_config(
    document: Any, overrides: Mapping[str, Any] = types.MappingProxyType({}), origin: str = ""
) -> RunConfig:
    """The configuration in a mapping, with dotted ``overrides`` on top; ``origin`` names the mapping in messages."""
    if not isinstance(document, Mapping):
        raise ConfigError(
            f"{origin}: a configuration must be a mapping of keys to values, got {type(document).__name__}"
        )
    merged, known = copied(document), field_names(RunConfig)
    for key, value in overrides.items():
        if not any(name == key or name.startswith(f"{key}.") for name in known):
            raise ConfigError(f"unknown setting {key}{nearest(key, known)}")
        set_dotted(merged, key, value)
    return build(RunConfig, merged, origin)


def find_config(source: str | Path) -> Path:
    """The path of a configuration given as a path or as a name in configs/ (which ships with the package)."""
    if Path(source).is_file():
        return Path(source)
    for folder in config_folders():
        for candidate in (folder / str(source), folder / f"{source}.yaml"):
            if candidate.is_file():
                return candidate
    names = config_names()
    raise ConfigError(f"config must be a file or one of {', '.join(names)}{nearest(str(source), names)}, got {source}")


def config_folders() -> list[Path]:
    """Folders with ready configurations: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return [folder for folder in (here / "configs", here.parent / "configs") if folder.is_dir()]


def config_names() -> list[str]:
    """Names of the ready configurations, such as ``quickstart`` and ``paper/cw10``."""
    found = {str(path.relative_to(f).with_suffix("")) for f in config_folders() for path in f.rglob("*.yaml")}
    return sorted(found)


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML; feeding it back gives the same run."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
