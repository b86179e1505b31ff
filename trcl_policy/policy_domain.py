"""Diffusion policies on simulated tasks as something that a run learns.

This is the top of the house, the one place where concrete simulators are named.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcl_envs.catalog import resolve_sequence, resolve_task, task_info
from trcl_envs.interface import BatchedEnv, TaskInfo
from trcl_policy.config import RunConfig
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.metrics import Curve
from trcl_policy.continual.params import Layout, Params
from trcl_policy.continual.streams import derive_seed
from trcl_policy.continual.tasks import Task, TaskSequence, draw
from trcl_policy.data.layout import ACTION, STATE
from trcl_policy.demonstrations import check_sizes, open_demonstrations
from trcl_policy.devices import resolve_device, settled
from trcl_policy.policy.controller import Ownership, Policy, PolicySpec, load_policy
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.seeing import SeeingWindows
from trcl_policy.policy.windows import Shape, Windows
from trcl_policy.rollout.evaluate import BLOCK, Episode, evaluate
from trcl_policy.rollout.rehearse import rehearse
from trcl_policy.rollout.retention import retention, visit_names
from trcl_policy.schema import ConfigError
from trcl_policy.sight import (
    Steps,
    held_frames,
    make_encoder,
    make_vision,
    stored_frames,
    with_features,
    with_ranges,
)
from trcl_policy.simulation import Simulation, data_env_args

MOMENTS = 64
"""Moments of an episode that a guided generator is asked for, evenly spread."""


class PolicyDomain:
    """Diffusion policies on a sequence of simulated tasks.

    Args:
        config: the run's configuration; its data set is read at once, so that all that is wrong shows before training.
        home: run directory, whose checkpoints may hold an encoder that need not be learned again.

    Raises:
        ConfigError: the tasks, the data set and the policy's windows do not fit each other.
    """

    data_key = "data.store"
    record_file = "episodes.jsonl"

    def __init__(self, config: RunConfig, home: Path | None = None) -> None:
        self.config = config = settled(config)
        self.device = resolve_device(config.device)
        try:
            self.sequence = resolve_sequence(config.tasks)
        except ValueError as error:
            raise ConfigError(f"tasks: {error}") from None
        self.distinct = tuple(dict.fromkeys(self.sequence))
        self.names = visit_names(self.sequence)
        self._envs: dict[tuple[str, int], BatchedEnv] = {}
        self._store = open_demonstrations(config, self.distinct)
        self._simulation = Simulation(
            config.simulation.env_python, env_args=data_env_args(self._store.provenance, self.distinct)
        )
        self.is_guided = METHODS[config.method.name].guided
        self.spec = self._make_spec()
        self.normalizer = Normalizer.empty(
            {"observation": self.spec.shape.observation_dim, "action": self.spec.shape.action_dim}, len(self.distinct)
        )
        self.encoder: Params | None = None
        if self.spec.vision is not None and not self.spec.learns_to_see:
            first = self._steps(self.distinct[0])
            learned = first.between(0, len(first.ends) - config.data.held_out)
            started = time.monotonic()
            self.encoder = make_encoder(config, self.spec, learned, self.device, home)
            self.encoder_seconds = time.monotonic() - started
        by_name = {name: self._load(index, name) for index, name in enumerate(self.distinct)}
        self.tasks = TaskSequence(
            tuple(
                Task(unique, *by_name[name], partial(self._rehearse, name))
                for unique, name in zip(self.names, self.sequence, strict=True)
            )
        )
        self.model = self.spec.model(derive_seed(config.seed, "network"), self.device, config.precision, config.compile)

    def _make_spec(self) -> PolicySpec:
        infos = [self._info(name) for name in self.distinct]
        self._sizes = {info.name: (info.observation_dim, info.action_dim) for info in infos}
        sizes = {(info.observation_dim, info.action_dim) for info in infos}
        if len(sizes) > 1:
            raise ConfigError(f"tasks must share one observation and action size, got {sorted(sizes)}")
        windows = self.config.policy
        try:
            needed = {info.policy_indices for info in infos}
            indices = windows.indices(infos[0].observation_dim, needed.pop() if len(needed) == 1 else "")
        except ValueError as error:
            raise ConfigError(f"policy.{error}") from None
        vision = make_vision(self.config, self._store)
        size = len(indices) + (vision.num_features if vision else 0)
        return PolicySpec(
            tasks=self.distinct,
            shape=Shape(size, infos[0].action_dim, windows.n_obs_steps, windows.horizon, self.is_guided),
            observation_indices=indices,
            n_action_steps=windows.n_action_steps,
            network=self.config.network,
            diffusion=self.config.diffusion,
            policy_fraction=windows.policy_fraction,
            guidance=windows.guidance,
            vision=vision,
        )

    def _info(self, name: str) -> TaskInfo:
        """The facts of a task; where the data say how it is simulated, they say the size of an observation, too."""
        info = task_info(name)
        if name not in self._simulation.env_args:
            return info
        return replace(info, observation_dim=self._store.arrays(name, (STATE,))[STATE].shape[1])

    def _load(self, index: int, name: str) -> tuple[Windows, dict[str, Tensor], Windows | None]:
        """Training windows, condition and held-out windows of a task; its ranges enter the normaliser."""
        steps = self._steps(name)
        total = len(steps.ends)
        kept = total - self.config.data.held_out
        train = self._seen(steps.between(0, kept), name, self.config.policy.encoder.crops)
        seen = {part: value.cpu() for part, value in train.parts.items()}
        self.normalizer = self.normalizer.fitted(index, seen, self.config.policy.min_range)
        held_out = self._windows(self._seen(steps.between(kept, total), name), index) if kept < total else None
        return self._windows(train, index), self._condition(index), held_out

    def _steps(self, name: str) -> Steps:
        """The demonstrations of a task that the run uses, raw."""
        arrays = self._store.arrays(name, (STATE, ACTION))
        check_sizes(name, (arrays[STATE].shape[1], arrays[ACTION].shape[1]), self._sizes[name])
        ends = arrays["episode_ends"][: self.config.data.episodes]
        chosen = list(self.spec.observation_indices)
        raw = {"observation": arrays[STATE][: ends[-1], chosen], "action": arrays[ACTION][: ends[-1]]}
        frames = stored_frames(self._store, name, self.config, self.device) if self.spec.vision else None
        return Steps(self._tensors(raw), ends, frames)

    def _tensors(self, raw: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {part: torch.from_numpy(value).float().to(self.device) for part, value in raw.items()}

    def _seen(self, steps: Steps, name: str, crops: int = 1) -> Steps:
        """Steps whose observation has all that the policy is told, features of pictures included."""
        if self.spec.vision is None:
            return steps
        if self.encoder is None:
            return with_ranges(steps, self.spec.vision.num_features)
        return with_features(steps, self.spec, self.encoder, crops, derive_seed(self.config.seed, "crops", name))

    def _windows(self, steps: Steps, index: int) -> Windows:
        """Normalised windows of a task."""
        scaled = {part: self.normalizer.normalize(part, value, index) for part, value in steps.parts.items()}
        if not self.spec.learns_to_see or steps.frames is None:
            return Windows(scaled, steps.ends, index, self.spec.shape)
        scaled["observation"] = scaled["observation"][:, : len(self.spec.observation_indices)]
        return SeeingWindows(scaled, steps.ends, index, self.spec.shape, steps.frames)

    def _condition(self, index: int) -> dict[str, Tensor]:
        """What a generator is told: the task and, where it is guided, moments evenly over an episode."""
        if not self.is_guided:
            return {"task": torch.tensor([index], device=self.device)}
        moments = torch.linspace(-1, 1, MOMENTS, device=self.device)[:, None]
        return {"task": torch.full((MOMENTS,), index, device=self.device), "progress": moments}

    def _rehearse(self, name: str, params: Params, count: int, rng: torch.Generator) -> dict[str, Tensor]:
        """``count`` windows of what a policy with these weights meets on a task, drawn uniformly over its steps."""
        index = self.distinct.index(name)
        policy = Policy(self.spec, self.model, params, self.normalizer, encoder=self.encoder)
        met = rehearse(policy, self.env(name), count, partial(_seeds, rng))
        chosen = list(self.spec.observation_indices)
        parts = self._tensors({"observation": met.observation[:, chosen], "action": met.action})
        steps = Steps(parts, met.episode_ends)
        if self.spec.vision is not None:
            steps = replace(steps, frames=held_frames(met.images, self.spec.vision.cameras, self.device))
        return dict(draw(self._windows(self._seen(steps, name), index), count, rng))

    def params(self) -> dict[str, Tensor]:
        """The first weights, drawn from the run's seed."""
        return {name: tensor.detach() for name, tensor in self.model.net.named_parameters()}

    def agent(self, params: Params, num_learned: int, owner: Tensor | None = None) -> Policy:
        """The policy with ``params`` after ``num_learned`` tasks of the sequence; later tasks have no ranges in it.

        Where tasks have weights of their own, ``owner`` (P,) names each weight's.
        """
        learned = {self.distinct.index(name) for name in self.sequence[:num_learned]}
        low = {part: leaf.clone() for part, leaf in self.normalizer.low.items()}
        high = {part: leaf.clone() for part, leaf in self.normalizer.high.items()}
        for index in set(range(len(self.distinct))) - learned:
            for ends in (*low.values(), *high.values()):
                ends[index] = float("nan")
        ownership = None if owner is None else self._ownership(params, num_learned, owner)
        return Policy(self.spec, self.model, params, Normalizer(low, high), ownership, self.encoder)

    def _ownership(self, params: Params, num_learned: int, owner: Tensor) -> Ownership:
        visits = torch.full((len(self.distinct),), -1)
        for place, name in enumerate(self.sequence[:num_learned]):
            visits[self.distinct.index(name)] = place
        return Ownership(Layout.of(params).unflatten(owner.clone()), visits)

    def load(self, folder: Path) -> Policy:
        """The policy of a checkpoint."""
        return load_policy(folder, self.device)

    def measure(self, agent: Policy, name: str, seeds: Sequence[int]) -> list[Episode]:
        """Roll a policy out on one task."""
        return evaluate(agent, self.env(name, len(seeds)), seeds)

    @property
    def seeds(self) -> Sequence[int]:
        """Seeds of the start states that every measurement rolls out from."""
        evaluation = self.config.evaluation
        return range(evaluation.seed, evaluation.seed + evaluation.episodes)

    def retention(self, records: Iterable[Mapping[str, Any]], alone: Sequence[Curve] | None) -> dict[str, Any]:
        """Scores and summaries out of the lines of ``record_file``."""
        return retention(records, self.names, alone)

    def illustrate(self, agent: Policy, number: int, folder: Path) -> None:
        """Draw nothing: ``trcl record`` films a policy when it is asked to."""

    def resolve(self, task: str) -> str:
        """The full name of a task."""
        return resolve_task(task)

    def env(self, name: str, episodes: int | None = None) -> BatchedEnv:
        """The simulation of a task for so many episodes (as many as an evaluation has), made on first use and kept."""
        worlds = min(BLOCK, episodes or self.config.evaluation.episodes)
        if (name, worlds) not in self._envs:
            self._envs[name, worlds] = self._simulation.make_env(name, worlds, self.config.evaluation.threads)
        return self._envs[name, worlds]

    def provenance(self) -> dict[str, Any]:
        """Facts about data and simulation that results depend on."""
        simulator = self._simulation.versions()
        return {
            "mujoco": simulator.get("mujoco"),
            "simulator": simulator,
            "device": str(self.device),
            "data": {
                "store": self.config.data.store,
                "fingerprint": self._store.fingerprint(),
                "collected_with": self._store.provenance,
            },
            "num_parameters": sum(tensor.numel() for tensor in self.model.net.parameters()),
            **({"encoder": self._encoder_facts(self.encoder)} if self.encoder is not None else {}),
        }

    def _encoder_facts(self, encoder: Params) -> dict[str, Any]:
        """An encoder outside the policy: how large it is, and the seconds it took before the run's clock starts."""
        size = sum(tensor.numel() for tensor in encoder.values())
        return {"learns": self.config.encoder_learns, "num_parameters": size, "seconds": self.encoder_seconds}

    def close(self) -> None:
        """Release the simulations."""
        for env in self._envs.values():
            env.close()
        self._envs = {}


def _seeds(rng: torch.Generator, count: int) -> list[int]:
    return torch.randint(2**31, (count,), generator=rng, device=rng.device).tolist()
