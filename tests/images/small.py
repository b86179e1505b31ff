"""Small images, networks and generators that the tests of this folder share."""

import torch

from trcl_policy.diffusion.guidance import Guidance
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.images.generator import Generator, GeneratorSpec
from trcl_policy.images.labelled import Format, Labelled
from trcl_policy.images.model import ImageNetwork
from trcl_policy.images.settings import ImageData, ImagesConfig, ImageSplit
from trcl_policy.images.tasks import make_tasks

NETWORK = ImageNetwork(channels=(8, 16), attention_at=(1,))  # 38,000 weights
DIFFUSION = Diffusion(num_train_timesteps=20, replay_steps=3, acting_steps=1, clip_range=1.0)
SHAPE = (1, 8, 8)
UNGUIDED = Guidance()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(per_class=12, num_classes=4, size=8):
    """A bright square per class in its own place, under noise: easy to tell apart, never the same twice."""
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    images = 0.1 * torch.randn(len(labels), 1, size, size, generator=generator(1)) - 0.7
    for row, label in enumerate(labels.tolist()):
        top, left = label // 2 * (size // 2), label % 2 * (size // 2)
        images[row, 0, top : top + size // 2, left : left + size // 2] += 1.2
    return Labelled(images.clamp(-1, 1), labels, tuple("abcdefgh"[:num_classes]))


def blob_tasks(condition="class", per_class=12, num_classes=4):
    data = ImageData(source="arrays", path="unused", form=Format(size=8), held_out=0.5)
    config = ImagesConfig(condition=condition, data=data, split=ImageSplit(num_tasks=2))
    return make_tasks(blobs(per_class, num_classes), config)


def spec(num_labels=4, tasks=((0, 1), (2, 3)), guidance=UNGUIDED, **diffusion):
    made = Diffusion(**{**vars(DIFFUSION), **diffusion})
    return GeneratorSpec(tuple("abcdefgh"[:num_labels]), tasks, SHAPE, NETWORK, made, guidance)


def moved(model, scale=0.05):
    """The model's weights, moved: fresh ones have zeros and ones that would hide errors."""
    rng = generator(7)
    return {n: p.detach() + scale * torch.randn(p.shape, generator=rng) for n, p in model.net.named_parameters()}


def make_generator(**options):
    made = spec(**options)
    model = made.model(seed=3)
    return Generator(made, model, moved(model))
