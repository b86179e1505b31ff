"""The configuration of a run: typed dataclasses, strict YAML, dotted overrides.

Every field can be set in a YAML file and on the command line (``--training.steps 2000`` or ``training.steps=2000``).
Unknown keys, wrong types and impossible values are one line that names the key, what came and what is accepted.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trcl_policy.continual.methods import METHODS, Options
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.parts import LOOKS_AHEAD
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.images.settings import ImagesConfig
from trcl_policy.policy.trajectory import Network
from trcl_policy.schema import ConfigError, build, copied, field_names, nearest, set_dotted
from trcl_policy.settings import DataConfig, EvaluationConfig, PolicyConfig, SimulationConfig

__all__ = ["DataConfig", "EvaluationConfig", "MethodConfig", "PolicyConfig", "RunConfig", "load_config", "make_config"]

DOMAINS = ("policy", "images")
FOREIGN = {
    "policy": ("images",),
    "images": (
        "tasks",
        "data",
        "policy",
        "simulation",
        "network",
        *(f"evaluation.{n}" for n in ("episodes", "seed", "alone", "threads")),
    ),
}
"""Settings that a domain has no use for."""
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")


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
class RunConfig:
    """One run: a sequence of tasks, a method, and how it is measured.

    Attributes:
        domain: what is learned: a ``policy`` or ``images``. Settings of the other one must be left out: ``images`` uses
            ``images`` alone of ``data``, ``policy``, ``simulation``, ``network`` and ``images``, and of ``evaluation``
            ``at_steps``.
        tasks: a sequence (``quick``, ``cw10``, ``random20:7``; ``trcl tasks`` lists them), a YAML file with a list,
            or a list of task names; for ``images``, what the source ``scenes`` renders.
        seed: seed of everything random in learning.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` (autocast) or ``auto``: ``bf16`` where the device is faster with it; a new run
            writes down which.
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
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    network: Network = field(default_factory=Network)
    diffusion: Diffusion = field(default_factory=Diffusion)
    training: Training = field(default_factory=Training)
    method: MethodConfig = field(default_factory=MethodConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)

    def __post_init__(self) -> None:
        """Check every value once."""
        for name, accepted in (("domain", DOMAINS), ("device", DEVICES), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in accepted:
                raise ValueError(
                    f"{name} must be one of {', '.join(accepted)}{nearest(value, accepted)}, got {value!r}"
                )
        _check_domain(self)
        _check_cameras(self)
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

    @property
    def encoder_learns(self) -> str:
        """When the encoder of a policy with cameras learns: ``policy.encoder.learns`` with ``auto`` decided."""
        wish = self.policy.encoder.learns
        if wish != "auto":
            return wish
        return "first_task" if METHODS[self.method.name].makes_up else "always"


def _check_cameras(config: RunConfig) -> None:
    """Check that a policy with cameras can be learned by the method."""
    if not config.policy.camera_names:
        return
    if config.encoder_learns == "always" and METHODS[config.method.name].makes_up:
        raise ValueError(
            f"policy.encoder.learns must be first_task or never for {config.method.name}, got always: "
            "the features it generates would go stale as the encoder learns"
        )


def _check_domain(config: RunConfig) -> None:
    """Check that the method fits the domain, and that nothing is set that the domain has no use for."""
    recipe = METHODS[config.method.name]
    if config.domain == "images" and (recipe.guided or recipe.replay == "rehearsed"):
        why = "an image is no sequence to be guided along" if recipe.guided else "images can't be rolled out"
        raise ValueError(f"method.name must be one that images can be learned with, got {config.method.name}: {why}")
    is_rendered = config.domain == "images" and config.images.data.source == "scenes"
    for key in FOREIGN[config.domain]:
        group, _, name = key.partition(".")
        value, default = getattr(config, group), _default(RunConfig, group)
        found = _difference(key, *((getattr(value, name), getattr(default, name)) if name else (value, default)))
        if found is not None and not (key == "tasks" and is_rendered):
            raise ValueError(f"{found[0]} must be left out with domain {config.domain}, got {found[1]!r}")


def _default(cls: Any, name: str) -> Any:
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _difference(name: str, value: Any, default: Any) -> tuple[str, Any] | None:
    """Dotted name and value of the first setting that is not its default; None where all are."""
    if value == default:
        return None
    if not dataclasses.is_dataclass(value):
        return name, value
    inner = (
        _difference(f"{name}.{f.name}", getattr(value, f.name), getattr(default, f.name))
        for f in dataclasses.fields(value)
    )
    return next(found for found in inner if found is not None)


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
    """The configuration as YAML, without groups that its domain has no use for; feeding it back gives the same run."""
    groups = {name: value for name, value in dataclasses.asdict(config).items() if not _is_unused(config, name)}
    if not config.policy.camera_names and "policy" in groups:
        groups["policy"].pop("encoder")
    return yaml.safe_dump(_plain(groups), sort_keys=False)


def completed(text: str) -> str:
    """A configuration as YAML text, with defaults for settings that are younger; the text where it has faults."""
    try:
        return dump_config(make_config(yaml.safe_load(text)))
    except (ConfigError, yaml.YAMLError):
        return text


def _is_unused(config: RunConfig, name: str) -> bool:
    return name in FOREIGN[config.domain] and dataclasses.is_dataclass(getattr(config, name))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
