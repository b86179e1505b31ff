"""Encoders of pictures: sizes, places of keypoints, crops."""

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from trcl_policy.policy.seeing import encode
from trcl_policy.policy.vision import BACKBONES, ResNet, SpatialSoftmax, Vision, central, crop, draw_corners

SMALL = Vision(("robot", "front"), 24, 20, stages=1, keypoints=3)


def pictures(count, *more, size=24, seed=0):
    shape = (count, *more, size, size, 3)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_the_full_resnet18_has_as_many_weights_as_the_published_one():
    """11,689,512 without the 513,000 of its classifier; group norms have as many weights as batch norms."""
    net = ResNet(64, BACKBONES["resnet18"], 4)
    assert sum(leaf.numel() for leaf in net.parameters()) == 11_689_512 - 513_000


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_maps_shrink_with_the_stages(stages):
    maps = ResNet(16, 1, stages)(torch.zeros(2, 3, 64, 64))
    assert maps.shape == (2, 16 * 2 ** (stages - 1), 64 // 2 ** (stages + 1), 64 // 2 ** (stages + 1))


@pytest.mark.parametrize(
    ("row", "column", "place"), [(0, 0, (-1, -1)), (0, 8, (1, -1)), (4, 0, (-1, 1)), (2, 4, (0, 0))]
)
def test_keypoints_are_where_the_maps_peak(row, column, place):
    softmax = SpatialSoftmax(1, 1)
    with torch.no_grad():
        softmax.conv.weight.fill_(1)
        maps = torch.zeros(1, 1, 5, 9)
        maps[0, 0, row, column] = 50
        assert softmax(maps)[0].tolist() == pytest.approx(place, abs=1e-4)


def test_features_lie_in_the_unit_box_and_belong_to_their_camera():
    encoder = SMALL.build(0)
    seen = central(pictures(4, 2), SMALL)
    features = encoder(seen)
    assert features.shape == (4, SMALL.num_features) == (4, 12)
    assert features.abs().max() <= 1
    changed = seen.clone()
    changed[:, 1] = 255 - changed[:, 1]
    same = (encoder(changed) == features).all(0)
    assert same[:6].all()
    assert not same[6:].any()


def test_an_encoder_takes_any_number_of_axes_in_front():
    encoder = SMALL.build(0)
    seen = central(pictures(2, 3, 2), SMALL)
    assert torch.equal(encoder(seen), encoder(seen.flatten(0, 1)).view(2, 3, -1))


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    one, other, third = (dict(SMALL.build(seed).named_parameters()) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), before)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["cameras.0.0.conv1.weight"], third["cameras.0.0.conv1.weight"])
    assert not torch.equal(one["cameras.0.0.conv1.weight"], one["cameras.1.0.conv1.weight"])


def test_vmapped_gradients_equal_a_loop():
    encoder = SMALL.build(0)
    params = {name: leaf.detach() for name, leaf in encoder.named_parameters()}
    seen = central(pictures(3, 2), SMALL)

    def loss(params, one):
        return encode(encoder, params, one[None]).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(params, seen)
    for row in range(3):
        for name, alone in grad(loss)(params, seen[row]).items():
            torch.testing.assert_close(together[name][row], alone, rtol=1e-4, atol=1e-6)


def test_a_crop_is_the_square_at_its_corner():
    whole = pictures(5, 2, 3)
    corner = draw_corners(5, SMALL, torch.Generator().manual_seed(0))
    cut = crop(whole, corner, 20)
    assert cut.shape == (5, 2, 3, 20, 20, 3)
    for sample, (top, left) in enumerate(corner.tolist()):
        assert torch.equal(cut[sample], whole[sample, :, :, top : top + 20, left : left + 20])
    middle = crop(whole, torch.full((5, 2), 2), 20)
    assert torch.equal(middle, central(whole, SMALL))


def test_corners_reach_every_place_and_no_further():
    corners = draw_corners(3000, SMALL, torch.Generator().manual_seed(0)).numpy()
    assert {tuple(corner) for corner in corners.tolist()} == {(a, b) for a in range(5) for b in range(5)}
    assert np.ptp(np.unique(corners, axis=0, return_counts=True)[1]) < 80
    assert draw_corners(3, Vision(("a",), 24, 24, stages=1), torch.Generator()).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cameras": ()}, r"cameras must be different names, got \[\]"),
        ({"cameras": ("a", "a")}, "cameras must be different names"),
        ({"backbone": "vit"}, "backbone must be one of resnet10, resnet18, got 'vit'"),
        ({"learns": "auto"}, "learns must be one of always, first_task, never, got 'auto'"),
        ({"stages": 5}, r"stages must be in \[1, 4\], got 5"),
        ({"width": 24}, "width must be a multiple of 16, got 24"),
        ({"keypoints": 0}, "keypoints must be >= 1, got 0"),
        ({"crop_size": 65}, r"crop_size must be in \[9, image_size = 64\] for 2 stages, got 65"),
        ({"crop_size": 8}, "crop_size must be in"),
    ],
)
def test_impossible_values_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Vision(**{"cameras": ("robot",), **wrong})
