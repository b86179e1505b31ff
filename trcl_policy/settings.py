"""Groups of settings: demonstrations, the policy's windows, simulation, and rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trcl_policy.diffusion.guidance import UNGUIDED, Guidance
from trcl_policy.policy.vision import LEARNS

HAND = "0:4"
"""Meta-World's hand and gripper among the entries of an observation."""


@dataclass(frozen=True)
class DataConfig:
    """Where demonstrations come from.

    Attributes:
        store: episode store made by ``trcl collect``.
        episodes: demonstrations used of each task.
        held_out: of these, how many are never trained on and only serve for held-out losses.
        image_cache_mb: memory for decoded images of the store [MiB]; more images are read from disk again and again.
    """

    store: str = "data/quick.zarr"
    episodes: int = 50
    held_out: int = 5
    image_cache_mb: int = 1024

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        if self.image_cache_mb < 1:
            raise ValueError(f"image_cache_mb must be >= 1 [MiB], got {self.image_cache_mb}")
        if not 0 <= self.held_out < self.episodes:
            raise ValueError(f"held_out must be in [0, episodes = {self.episodes}), got {self.held_out}")


@dataclass(frozen=True)
class EncoderConfig:
    """The network that turns images into features.

    Attributes:
        learns: ``always`` with the policy; ``first_task``: from the first task's demonstrations before everything else,
            then no more; ``never``: it stays as it was drawn; ``auto``: ``first_task`` for methods that generate
            observations, which are features then, else ``always``.
        backbone: ``resnet10`` or ``resnet18``, with group norms.
        width: channels of the first stage; 64 is the published ResNet.
        stages: stages of the ResNet, 1 to 4; small images need few.
        keypoints: keypoints of the spatial softmax for each camera, 2 features each.
        steps: updates of ``first_task``; as many as a task gets where not given.
        batch_size: samples in each of them.
        crops: crops of every image whose features a policy with a fixed encoder is trained on; 1 is the middle alone.
    """

    learns: str = "auto"
    backbone: str = "resnet10"
    width: int = 16
    stages: int = 2
    keypoints: int = 32
    steps: int | None = None
    batch_size: int = 64
    crops: int = 4

    def __post_init__(self) -> None:
        """Check what the encoder itself does not."""
        accepted = ("auto", *LEARNS)
        if self.learns not in accepted:
            raise ValueError(f"learns must be one of {', '.join(accepted)}, got {self.learns!r}")
        for name in ("batch_size", "crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")


@dataclass(frozen=True)
class PolicyConfig:
    """Windows that the policy sees and acts in.

    Attributes:
        n_obs_steps: observations in the history.
        horizon: predicted actions.
        n_action_steps: executed actions before the policy looks again.
        observation_indices: entries of the observation to use, such as ``0:18,36:39``; empty uses all, ``auto`` those
            that the tasks say a policy needs (Meta-World's: all but the previous frame), and with cameras ``0:4``:
            Meta-World's hand and gripper, so that the rest must be seen.
        policy_fraction: share of training samples that train the policy; the rest trains the generator.
        guidance: classifier-free guidance of the generator by the task; acting is not guided.
        min_range: narrowest range of an observation entry that is stretched to [-1, 1] [units of the observation].
        cameras: cameras whose images the policy sees, a list or a text joined by commas; none for a policy of numbers.
        image_size: height and width of the images [pixels]; as in the data where not given.
        crop_size: height and width of random crops while learning and of the middle while acting [pixels]; 7/8 of the
            image where not given.
        encoder: the network that turns images into features.
    """

    n_obs_steps: int = 1
    horizon: int = 8
    n_action_steps: int = 4
    observation_indices: str = "auto"
    policy_fraction: float = 0.5
    guidance: Guidance = UNGUIDED
    min_range: float = 0.05
    cameras: str | tuple[str, ...] = ()
    image_size: int | None = None
    crop_size: int | None = None
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

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
        self._check_cameras()
        self.indices(10**6)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The cameras as names."""
        names = self.cameras.split(",") if isinstance(self.cameras, str) else self.cameras
        return tuple(name.strip() for name in names if name.strip())

    def _check_cameras(self) -> None:
        given = {name: getattr(self, name) for name in ("image_size", "crop_size")}
        if not self.camera_names:
            set_anyway = [name for name, value in given.items() if value is not None]
            set_anyway += ["encoder"] if self.encoder != EncoderConfig() else []
            if set_anyway:
                raise ValueError(f"cameras must be given for {', '.join(set_anyway)} to be of use, got none")
        if len(set(self.camera_names)) != len(self.camera_names):
            raise ValueError(f"cameras must be different ones, got {', '.join(self.camera_names)}")
        for name, value in given.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1 [pixels], got {value}")

    def indices(self, size: int, needed: str = "") -> tuple[int, ...]:
        """The chosen entries of an observation of ``size`` numbers; ``auto`` chooses those that are ``needed``."""
        auto = HAND if self.camera_names else needed
        wanted = auto if self.observation_indices == "auto" else self.observation_indices
        if not wanted:
            return tuple(range(size))
        chosen: list[int] = []
        for piece in wanted.split(","):
            try:
                ends = [int(end) for end in piece.split(":")]
                chosen += range(*ends) if len(ends) == 2 else [ends[0]] if len(ends) == 1 else [-1]
            except ValueError:
                chosen.append(-1)
        if not chosen or min(chosen) < 0 or max(chosen) >= size or len(set(chosen)) != len(chosen):
            raise ValueError(
                f"observation_indices must be distinct numbers and ranges below {size} such as '0:18,36:39', or auto, "
                f"got {wanted!r}"
            )
        return tuple(chosen)


@dataclass(frozen=True)
class SimulationConfig:
    """Where tasks are simulated.

    Attributes:
        env_python: Python of another virtual environment that simulates them, such as robosuite's; ``--env-python``
            for short.
    """

    env_python: str | None = None


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
