"""A small classifier of the real images, frozen: for the features of the feature distance, and for class accuracy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from trcl_policy.continual.streams import derive_seed
from trcl_policy.files import read_safetensors, write_safetensors
from trcl_policy.images.labelled import Labelled

FORMAT = 2
BATCH = 64
RATE = 2e-3
SHIFT = 8
"""Training images move by up to 1 / SHIFT of their size, at least one pixel."""


@dataclass(frozen=True)
class ClassifierSettings:
    """What defines a classifier besides its data.

    Attributes:
        num_classes: classes that it tells apart.
        channels: channels of an image.
        size: height and width of an image [pixels].
        features: size D of the feature vector.
        width: channels of the first layer.
        epochs: passes over the training images.
        seed: seed of weights, order and shifts.
    """

    num_classes: int
    channels: int
    size: int
    features: int
    width: int
    epochs: int
    seed: int


class Network(nn.Module):
    """Convolutions, halving the image down to about 4 x 4, then features (B, D), then class scores.

    ``spread`` (D,) is the features' standard deviation over the training images.
    """

    spread: Tensor

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, width, size = settings.channels, settings.width, settings.size
        while True:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(1, width), nn.SiLU()]
            if size <= 4:
                break
            layers.append(nn.AvgPool2d(2))
            before, width, size = width, min(2 * width, 8 * settings.width), size // 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size * size, settings.features))
        self.head = nn.Linear(settings.features, settings.num_classes)
        self.register_buffer("spread", torch.ones(settings.features))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> class scores (B, K)."""
        return self.head(functional.silu(self.body(images)))


@dataclass(frozen=True)
class Classifier:
    """A trained, frozen classifier.

    Attributes:
        network: its network.
        accuracy: share of held-out images that it names right.
        fingerprint: of the settings and the training images.
    """

    network: Network
    accuracy: float
    fingerprint: str

    def features(self, images: Tensor) -> Tensor:
        """Features (N, D), float64, of images (N, C, H, W) in [-1, 1], in units of their spread over training images.

        Without the units, distances would follow the arbitrary size of the network's last weights.
        """
        with torch.no_grad():
            found = torch.cat([self.network.body(piece) for piece in images.split(1024)])
            return found.double() / self.network.spread.double()

    def classes(self, images: Tensor) -> Tensor:
        """The most likely class (N,) of every image."""
        with torch.no_grad():
            return torch.cat([self.network(piece).argmax(1) for piece in images.split(1024)])


def fingerprint(settings: ClassifierSettings, train: Labelled, held_out: Labelled) -> str:
    """16 hexadecimal digits that change with the settings or with any image or label."""
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(settings)]).encode())
    for part in (train, held_out):
        digest.update(part.images.contiguous().numpy().tobytes())
        digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()[:16]


def classifier(settings: ClassifierSettings, train: Labelled, held_out: Labelled, cache: Path | str) -> Classifier:
    """The classifier of these images: read from ``cache``, or trained and kept there."""
    mark = fingerprint(settings, train, held_out)
    path = Path(cache) / f"{mark}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("classifier", settings.seed))
        network = Network(settings)
    if not path.is_file():
        _train(network, settings, train)
        network.spread.copy_(Classifier(network, 0.0, mark).features(train.images).std(0))
        right = Classifier(network, 0.0, mark).classes(held_out.images) == held_out.labels
        accuracy = float(right.double().mean())
        write_safetensors(path, dict(network.state_dict()), {"accuracy": repr(accuracy), "settings": mark})
    weights, facts = read_safetensors(path)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected or "accuracy" not in facts:
        raise ValueError(f"{path} must be a classifier of these settings, got another: delete it to train a new one")
    network.load_state_dict(weights)
    return Classifier(network.eval().requires_grad_(False), float(facts["accuracy"]), mark)


def _train(network: Network, settings: ClassifierSettings, train: Labelled) -> None:
    """Adam with a cosine rate on shifted images."""
    rng = torch.Generator().manual_seed(derive_seed("classifier batches", settings.seed))
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    total = settings.epochs * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for images, labels in _batches(train, settings.epochs, rng):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _batches(train: Labelled, epochs: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    reach = max(1, train.images.shape[2] // SHIFT)
    for _ in range(epochs):
        for index in torch.randperm(len(train), generator=rng).split(BATCH):
            down, right = torch.randint(-reach, reach + 1, (2,), generator=rng).tolist()
            yield _shifted(train.images[index], down, right), train.labels[index]


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images moved by whole pixels; the edge is repeated, nothing comes round."""
    height, width = images.shape[2:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return images[:, :, rows][:, :, :, columns]
