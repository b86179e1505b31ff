"""A trained image generator that can be saved, loaded on its own and asked for images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcl_policy.continual.packing import weights_of
from trcl_policy.continual.params import Layout, Params
from trcl_policy.continual.streams import derive_seed
from trcl_policy.diffusion.guidance import UNGUIDED, Guidance
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.files import read_json, read_safetensors, write_json, write_safetensors
from trcl_policy.images.model import ImageModel, ImageNetwork

FORMAT = 1
TYPE = "trcl_images"


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """All that is needed to build a generator besides its weights.

    Attributes:
        labels: name of every label.
        tasks: labels of every task, in the order of learning.
        shape: channels, height and width of an image.
        network: the network.
        diffusion: the diffusion process.
        guidance: classifier-free guidance.
    """

    labels: tuple[str, ...]
    tasks: tuple[tuple[int, ...], ...]
    shape: tuple[int, int, int]
    network: ImageNetwork
    diffusion: Diffusion
    guidance: Guidance = UNGUIDED

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be three numbers >= 1 (C, H, W), got {list(self.shape)}")
        wrong = [label for task in self.tasks for label in task if not 0 <= label < len(self.labels)]
        if wrong:
            raise ValueError(f"tasks must hold labels in [0, {len(self.labels)}), got {wrong}")

    def model(
        self, seed: int = 0, device: torch.device | str = "cpu", precision: str = "fp32", compile: bool = False
    ) -> ImageModel:
        """A model with fresh weights drawn from ``seed``."""
        net = self.network.build(self.shape, len(self.labels) + 1, seed).to(device)
        return ImageModel(net, self.diffusion, self.shape, len(self.labels), self.guidance, device, precision, compile)

    def to_json(self) -> dict[str, Any]:
        """A JSON document with the format's version."""
        return {"format": FORMAT, "type": TYPE, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, document: Any) -> GeneratorSpec:
        """The spec saved as ``document``."""
        if not isinstance(document, dict) or (document.get("format"), document.get("type")) != (FORMAT, TYPE):
            came = (document.get("format"), document.get("type")) if isinstance(document, dict) else document
            raise ValueError(f"format and type must be {FORMAT} and {TYPE}, got {came!r}")
        missing = {field.name for field in dataclasses.fields(cls)} - set(document)
        if missing:
            raise ValueError(f"it must have {', '.join(sorted(missing))}, got none")
        network = {**document["network"]}
        for key in ("channels", "attention_at"):
            network[key] = tuple(network[key])
        return cls(
            labels=tuple(document["labels"]),
            tasks=tuple(tuple(task) for task in document["tasks"]),
            shape=tuple(document["shape"]),
            network=ImageNetwork(**network),
            diffusion=Diffusion(**document["diffusion"]),
            guidance=Guidance(**document["guidance"]),
        )


class Generator:
    """Makes images of given labels.

    Args:
        spec: how it is built.
        model: the model, on the device to run on.
        params: weights.
        num_learned: tasks learned so far; None for all.
        owners: the task that each weight belongs to, -1 for none, tensors named like the weights; None where all tasks
            share all.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        model: ImageModel,
        params: Params,
        num_learned: int | None = None,
        owners: Params | None = None,
    ) -> None:
        self.spec, self.model, self.params, self.owners = spec, model, params, owners
        self.num_learned = len(spec.tasks) if num_learned is None else num_learned
        self.device = next(iter(params.values())).device

    @property
    def owner(self) -> Tensor | None:
        """The task that each weight belongs to, flat (P,); None where all tasks share all."""
        return None if self.owners is None else Layout.of(self.params).flatten(self.owners)

    def params_of(self, task: int) -> Params:
        """The weights that a task uses."""
        if self.owners is None:
            return self.params
        return {name: weights_of(leaf, self.owners[name], task) for name, leaf in self.params.items()}

    def sample(self, labels: Tensor, seed: int = 0, chunk_size: int = 256) -> Tensor:
        """Images (N, C, H, W) in [-1, 1], on the CPU, for labels (N,); the same labels and seed give the same images.

        Raises:
            ValueError: a label that the generator does not know, or has not learned.
        """
        known = len(self.spec.labels)
        if labels.ndim != 1 or not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= known:
            raise ValueError(f"labels must be (N,) in [0, {known}), got {labels.flatten()[:8].tolist()}")
        task_of = {label: task for task, own in enumerate(self.spec.tasks[: self.num_learned]) for label in own}
        strange = sorted(set(labels.tolist()) - set(task_of))
        if strange:
            raise ValueError(f"labels must be learned ones, got {', '.join(self.spec.labels[x] for x in strange)}")
        if self.owners is None:
            return self._made(self.params, labels, derive_seed("images", seed), chunk_size)
        whose = torch.tensor([task_of[label] for label in labels.tolist()])
        images = torch.empty(len(labels), *self.spec.shape)
        for task in whose.unique().tolist():
            mine = whose == task
            images[mine] = self._made(self.params_of(task), labels[mine], derive_seed("images", seed, task), chunk_size)
        return images

    def _made(self, params: Params, labels: Tensor, seed: int, chunk_size: int) -> Tensor:
        rng = torch.Generator(self.device).manual_seed(seed)
        pieces = labels.to(self.device).split(chunk_size)
        with torch.no_grad():
            made = [self.model.generate(params, {"label": piece}, rng)["x"] for piece in pieces]
        return self.model.planes(torch.cat(made)).clamp(-1, 1).cpu()

    def sample_task(self, task: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """``count`` images of a task and their labels (count,), as equally many of each label as ``count`` allows."""
        own = torch.tensor(self.spec.tasks[task])
        labels = own[torch.arange(count) * len(own) // count]
        return self.sample(labels, derive_seed(seed, "task", task)), labels

    def save(self, folder: Path | str) -> None:
        """Write ``model.safetensors`` and, last, ``config.json`` into ``folder``.

        Where tasks have weights of their own, ``owner.safetensors`` says which.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", self.params)
        if self.owners is not None:
            write_safetensors(folder / "owner.safetensors", self.owners)
        write_json(folder / "config.json", {**self.spec.to_json(), "num_learned": self.num_learned})


def load_generator(folder: Path | str, device: torch.device | str = "cpu") -> Generator:
    """The generator saved in ``folder``, such as ``runs/NAME/checkpoints/03``.

    Raises:
        FileError: a file is missing or can't be read.
        ValueError: a file is damaged or does not fit the other; the message names it.
    """
    folder = Path(folder)
    config, owners = folder / "config.json", folder / "owner.safetensors"
    document = read_json(config)
    try:
        spec = GeneratorSpec.from_json(document)
        num_learned = int(document["num_learned"])
        if not 0 <= num_learned <= len(spec.tasks):
            raise ValueError(f"num_learned must be in [0, {len(spec.tasks)}], got {num_learned}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config} must be a generator's configuration, got one with a fault: {error}") from None
    model = spec.model(device=device)
    params = _fitting(folder / "model.safetensors", config, model, device)
    owned = _fitting(owners, config, model, device) if owners.exists() else None
    return Generator(spec, model, params, num_learned, owned)


def _fitting(path: Path, config: Path, model: ImageModel, device: torch.device | str) -> dict[str, Tensor]:
    """Tensors named and shaped like the model's weights."""
    found, _ = read_safetensors(path)
    expected = {name: tensor.shape for name, tensor in model.net.named_parameters()}
    if {name: tensor.shape for name, tensor in found.items()} != expected:
        raise ValueError(f"{path} must fit the network of {config}, got other names or shapes")
    return {name: found[name].to(device) for name in expected}
