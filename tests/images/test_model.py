"""The image model: guidance, saving, sampling, learning with the core's methods."""

import json

import pytest
import torch

from tests.images.small import NETWORK, SHAPE, blob_tasks, generator, make_generator, moved, spec
from trcl_policy.continual.learner import learn
from trcl_policy.continual.methods import Options, make_method
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.streams import Streams
from trcl_policy.diffusion.guidance import Guidance
from trcl_policy.images.generator import Generator, load_generator
from trcl_policy.images.model import ImageNetwork


def batch(count=400):
    return {"x": torch.randn(count, 64, generator=generator(2)), "label": torch.arange(count) % 4}


def test_dropout_hides_its_share_of_labels_and_nothing_else():
    model, batch_ = spec(guidance=Guidance(0.25, 1.0)).model(), batch()
    corrupted = model.corrupt(batch_, generator())
    hidden = corrupted["label"] == 4
    assert 0.17 < hidden.double().mean() < 0.33
    assert torch.equal(corrupted["label"][~hidden], batch_["label"][~hidden])
    plain = spec().model().corrupt(batch_, generator())
    assert torch.equal(plain["label"], batch_["label"])
    assert torch.equal(plain["noisy"], corrupted["noisy"])


def test_guided_output_leads_away_from_the_unlabelled_one():
    rows, level = batch(3), torch.full((3, 1), 7)
    made = make_generator(guidance=Guidance(0.1, 2.5))
    label, none = {"label": rows["label"]}, {"label": torch.full((3,), 4)}
    given = made.model._network(made.params, rows["x"], level, label)
    without = made.model._network(made.params, rows["x"], level, none)
    assert (given - without).abs().max() > 1e-3
    guided = made.model.denoise(made.params, rows["x"], level, label)
    torch.testing.assert_close(guided, 2.5 * given - 1.5 * without, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_guidance_reaches_the_samples_and_scale_one_is_no_guidance(prediction):
    plain, one, strong = (
        make_generator(guidance=g, prediction=prediction) for g in (Guidance(), Guidance(0.1, 1.0), Guidance(0.1, 5.0))
    )
    labels = torch.tensor([0, 1, 2])
    assert torch.equal(plain.sample(labels, 1), one.sample(labels, 1))
    assert not torch.allclose(plain.sample(labels, 1), strong.sample(labels, 1), atol=1e-3)


def test_samples_are_images_that_follow_seed_label_and_nothing_else():
    made, labels = make_generator(), torch.tensor([0, 1, 1, 3])
    images = made.sample(labels, 5)
    assert images.shape == (4, *SHAPE)
    assert images.abs().max() <= 1
    assert torch.equal(images, made.sample(labels, 5))
    assert not torch.equal(images, made.sample(labels, 6))
    other = made.sample(torch.tensor([0, 1, 2, 3]), 5)
    assert torch.equal(images[[0, 1, 3]], other[[0, 1, 3]])
    assert not torch.equal(images[2], other[2])


def test_task_samples_are_shared_out_over_its_labels():
    images, labels = make_generator().sample_task(1, 5)
    assert labels.tolist() == [2, 2, 2, 3, 3]
    assert images.shape == (5, *SHAPE)


def test_a_saved_generator_is_the_same_when_loaded_alone(tmp_path):
    made = make_generator(guidance=Guidance(0.1, 2.0))
    made.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert loaded.spec == made.spec
    assert torch.equal(loaded.sample(torch.arange(4), 2), made.sample(torch.arange(4), 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGES = {
    "format": (lambda p: change(p, format=9), r"format and type must be 1 and trcl_images, got \(9, 'trcl_images'\)"),
    "a policy": (lambda p: change(p, type="trcl_policy"), "format and type must be 1 and trcl_images"),
    "sizes": (lambda p: change(p, shape=[1, 16]), r"shape must be three numbers >= 1 \(C, H, W\), got \[1, 16\]"),
    "labels": (lambda p: change(p, labels=["a"]), r"tasks must hold labels in \[0, 1\), got"),
    "network": (lambda p: change(p, network={**vars(NETWORK), "channels": [16, 16]}), "must fit the network of"),
    "unknown": (lambda p: change(p, diffusion={"colour": 1}), "got one with a fault"),
    "learned": (lambda p: change(p, num_learned=None), "got one with a fault"),
    "too many learned": (lambda p: change(p, num_learned=3), r"num_learned must be in \[0, 2\], got 3"),
    "missing": (lambda p: p.write_text('{"format": 1, "type": "trcl_images"}'), "it must have diffusion, guidance"),
    "a list": (lambda p: p.write_text("[1]"), r"got \[1\]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_one_line(tmp_path, damage):
    harm, message = DAMAGES[damage]
    make_generator().save(tmp_path)
    harm(tmp_path / "config.json")
    with pytest.raises(ValueError, match=message) as caught:
        load_generator(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_unknown_labels_are_refused():
    with pytest.raises(ValueError, match=r"labels must be \(N,\) in \[0, 4\), got \[1, 4\]"):
        make_generator().sample(torch.tensor([1, 4]))


def test_labels_of_tasks_to_come_are_refused(tmp_path):
    made = make_generator()
    early = Generator(made.spec, made.model, made.params, num_learned=1)
    assert torch.equal(early.sample(torch.tensor([0, 1])), made.sample(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="labels must be learned ones, got c, d"):
        early.sample(torch.tensor([0, 3, 2]))
    early.save(tmp_path)
    assert load_generator(tmp_path).num_learned == 1


def test_tasks_with_weights_of_their_own_use_no_later_ones(tmp_path):
    """The first task's images don't change with weights that belong to the second, or to none."""
    made = make_generator()
    owners = {name: torch.arange(p.numel()).view(p.shape) % 3 - 1 for name, p in made.params.items()}
    other = {name: torch.where(owners[name] == 0, p, p + 1) for name, p in made.params.items()}
    one, two = (Generator(made.spec, made.model, params, owners=owners) for params in (made.params, other))
    both = torch.tensor([0, 2, 1, 3])
    assert torch.equal(one.sample(both, 4)[[0, 2]], two.sample(both, 4)[[0, 2]])
    assert not torch.equal(one.sample(both, 4)[[1, 3]], two.sample(both, 4)[[1, 3]])
    assert not torch.equal(one.sample(torch.tensor([2]), 4), made.sample(torch.tensor([2]), 4))
    one.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert torch.equal(loaded.owner, one.owner)
    assert torch.equal(loaded.sample(both, 4), one.sample(both, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guidance(1.0), r"label_dropout must be in \[0, 1\), got 1"),
        (lambda: Guidance(0.0, 2.0), "scale must be >= 0, and 1 where label_dropout is 0, got 2"),
        (lambda: ImageNetwork(channels=()), "channels must be at least one"),
        (lambda: ImageNetwork(channels=(12,)), "channels must be multiples of norm_groups = 8"),
        (lambda: ImageNetwork(resampling="pool"), "resampling must be one of conv, resnet, got 'pool'"),
        (lambda: ImageNetwork(head_dim=0), "head_dim must be >= 1, got 0"),
    ],
)
def test_impossible_settings_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


OPTIONS = Options(fisher_samples=8, replay_samples=6, memory=6)


def run(name, condition="class"):
    tasks, made = blob_tasks(condition), spec(blob_tasks(condition).num_labels, ((0,), (1,)))
    model = made.model(seed=1)
    training = Training(steps=2, batch_size=4, learning_rate=1e-3, warmup=0, ema_decay=0.0)
    sequence = tasks.sequence()
    found = learn(model, moved(model, 0.0), sequence, make_method(name, OPTIONS), training, Streams(0), 1)
    return [(s.kind, s.theta.clone(), s.scalars, s.state()) for s in found]


@pytest.mark.parametrize("name", ["finetune", "ewc", "er", "replay", "trcl"])
def test_methods_of_the_core_drive_images(name):
    found = run(name)
    assert all(torch.isfinite(theta).all() for _, theta, *_ in found)
    assert not torch.equal(found[0][1], found[-1][1])
    last = found[-1][2]
    assert ("loss_old" in last) == (name in ("er", "replay", "trcl"))
    if name in ("ewc", "trcl"):
        assert last["penalty"] > 0
    if name in ("replay", "trcl"):
        assert settled_labels(found) <= {0, 1}


def settled_labels(found):
    """Labels of what was generated after the first task."""
    return set(next(state for kind, *_, state in found if kind == "settled")["replay/pool/label"].tolist())


def test_a_model_of_tasks_knows_no_classes():
    assert settled_labels(run("replay", condition="task")) == {0}


@pytest.mark.slow
def test_four_places_are_learned():
    """Generated images carry their square where their label says."""
    tasks, made = blob_tasks(), spec(num_train_timesteps=50, replay_steps=20)
    model = made.model(seed=1)
    training = Training(steps=300, batch_size=32, learning_rate=2e-3)
    steps = learn(
        model, moved(model, 0.0), tasks.sequence().merged(), make_method("finetune"), training, Streams(0), 999
    )
    params = list(steps)[-1].params
    images = Generator(made, model, params).sample(torch.arange(4).repeat_interleave(8), 0)
    quarters = images.view(32, 2, 4, 2, 4).mean((2, 4)).flatten(1)
    assert torch.equal(quarters.argmax(1), torch.arange(4).repeat_interleave(8))
