"""The configurations that ship: their image, diffusion, training and method sections fit each other."""

import pytest
import torch

from trcl_policy.config import load_config
from trcl_policy.images.settings import ImagesConfig
from trcl_policy.schema import ConfigError, build

NAMES = [
    "images-digits",
    "images-scenes",
    "images-scenes-large",
    *(f"paper/{n}" for n in ("mnist", "fashion-mnist", "cifar10", "imagenet500")),
]


@pytest.mark.parametrize("name", NAMES)
def test_sections_are_valid_and_a_network_can_be_built(name):
    config = load_config(name)
    assert config.domain == "images"
    images = config.images
    with torch.device("meta"):
        net = images.network.build(images.data.form.shape, 10, 0)
    assert sum(p.numel() for p in net.parameters()) > 10_000
    if name.startswith("paper/"):
        assert config.diffusion.replay_steps == 50
        assert config.training.learning_rate == 2e-4


def test_unknown_keys_and_wrong_types_are_one_line():
    with pytest.raises(ConfigError, match=r"unknown key data.sorce \(did you mean data.source\?\)"):
        build(ImagesConfig, {"data": {"sorce": "idx"}})
    with pytest.raises(ConfigError, match=r"split.classes\[0\]\[1\] must be a text or a whole number, got 1.5"):
        build(ImagesConfig, {"split": {"classes": [["a", 1.5]]}})
    assert build(ImagesConfig, {"split": {"classes": [[0, "a"], [3]]}}).split.classes == ((0, "a"), (3,))
    with pytest.raises(ConfigError, match=r"network\.channels must be multiples of norm_groups = 8"):
        build(ImagesConfig, {"network": {"channels": [12]}})
