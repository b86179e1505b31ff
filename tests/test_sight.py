"""Policies with cameras as a run has them: settings, encoders, features, windows. Nothing is simulated here."""

import dataclasses

import numpy as np
import pytest
import torch

from trcl_envs.catalog import task_info
from trcl_envs.interface import Scene, Step
from trcl_policy import sight
from trcl_policy.config import RunConfig, dump_config, load_config, make_config
from trcl_policy.continual.generated import GeneratedReplay
from trcl_policy.continual.learner import learn
from trcl_policy.continual.methods import METHODS, Options, make_method
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.streams import Streams
from trcl_policy.data.store import Episode, EpisodeStore
from trcl_policy.policy.seeing import encode
from trcl_policy.policy.vision import central
from trcl_policy.policy_domain import PolicyDomain
from trcl_policy.schema import ConfigError

TASKS = ("window-close-v3", "button-press-topdown-v3")
SIZE = 24
LENGTHS = (7, 5, 6)
ENCODER = {"stages": 1, "keypoints": 2, "steps": 3, "batch_size": 4, "crops": 3}


def write_store(path, seed=0, changed=None, size=SIZE):
    """Two tasks, three episodes each, random pictures of two cameras; ``changed``: an episode with other pictures."""
    store = EpisodeStore.create(path, [task_info(name) for name in TASKS])
    with store:
        for task, name in enumerate(TASKS):
            for number, length in enumerate(LENGTHS):
                rng = np.random.default_rng([seed, task, number, (task, number) == changed])
                images = {c: rng.integers(0, 256, (length, size, size, 3), np.uint8) for c in ("robot", "front")}
                rng = np.random.default_rng([seed, task, number])
                state, action = rng.normal(size=(length, 39)), rng.uniform(-1, 1, (length, 4))
                store.append(Episode(name, state, action, np.ones(length, bool), images))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("sight") / "s.zarr")


def document(store, method="replay", learns="auto", **policy):
    encoder = {**ENCODER, "learns": learns, **policy.pop("encoder", {})}
    return {
        "tasks": list(TASKS),
        "data": {"store": str(store), "episodes": 3, "held_out": 1},
        "policy": {"cameras": ["front", "robot"], "horizon": 4, "encoder": encoder, **policy},
        "network": {"width": 12, "depth": 1, "condition_dim": 8},
        "training": {"steps": 3, "batch_size": 4},
        "diffusion": {"num_train_timesteps": 20, "acting_steps": 2, "replay_steps": 2},
        "method": {"name": method},
    }


def domain(store, home=None, **options):
    return PolicyDomain(make_config(document(store, **options)), home)


def stored(path, name):
    store = EpisodeStore.open(path)
    rows = np.concatenate([np.arange(*span) for span in store.episodes_of(name)])
    keys = ("observation.images.front", "observation.images.robot")
    pictures = torch.from_numpy(np.stack([store.take(key, rows) for key in keys], axis=1))
    return pictures, torch.from_numpy(store.read("observation.state", name))


def test_a_learning_encoder_is_part_of_the_weights_and_windows_have_pictures(store):
    made = domain(store, method="er")
    assert made.spec.learns_to_see
    assert made.encoder is None
    assert any(name.startswith("encoder.") for name in made.params())
    pictures, state = stored(store, TASKS[1])
    windows = made.tasks[1].samples
    assert len(windows) == sum(LENGTHS[:2])
    batch = windows.gather(torch.tensor([0, 8, 11]))
    assert torch.equal(batch["pictures"][:, 0], pictures[[0, 8, 11]])
    assert torch.equal(made.tasks[1].held_out.gather(torch.tensor([0]))["pictures"][0, 0], pictures[12])
    low, high = state[:12, :4].amin(0), state[:12, :4].amax(0)
    torch.testing.assert_close(batch["observation"], (state[[0, 8, 11], :4] - low) / (high - low) * 2 - 1)
    corrupted = made.model.corrupt(batch, torch.Generator().manual_seed(0))
    assert torch.isfinite(made.model.losses(made.params(), corrupted)).all()


@pytest.mark.parametrize("learns", ["first_task", "never"])
def test_a_fixed_encoder_makes_features_once(store, learns):
    made = domain(store, learns=learns)
    vision, pictures = made.spec.vision, stored(store, TASKS[0])[0]
    assert not any(name.startswith("encoder.") for name in made.params())
    windows = made.tasks[0].samples
    assert len(windows) == 3 * sum(LENGTHS[:2])
    seen = windows.gather(torch.arange(12))
    assert set(seen) == {"observation", "action", "task"}
    with torch.no_grad():
        features = encode(vision.build(0), made.encoder, central(pictures[:12], vision))
    found = made.normalizer.unnormalize("observation", seen["observation"], 0)[:, 4:]
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
    everything = windows.gather(torch.arange(36))["observation"]
    assert everything.abs().max() <= 1 + 1e-5
    assert torch.equal(everything[12:24, :4], everything[:12, :4])
    assert not torch.equal(everything[12:24, 4:], everything[:12, 4:])
    assert not torch.equal(everything[12:24, 4:], everything[24:, 4:])
    assert len(made.tasks[0].held_out) == LENGTHS[2]


def test_the_first_task_alone_teaches_the_encoder(store, tmp_path):
    wanted, drawn = domain(store).encoder, domain(store, learns="never").encoder
    assert any(not torch.equal(wanted[name], drawn[name]) for name in wanted)
    for number, changed in enumerate([(1, 0), (0, 2)]):  # the second task, and a held-out episode of the first
        other = domain(write_store(tmp_path / f"{number}.zarr", changed=changed)).encoder
        assert all(torch.equal(wanted[name], other[name]) for name in wanted)
    other = domain(write_store(tmp_path / "c.zarr", changed=(0, 1))).encoder
    assert any(not torch.equal(wanted[name], other[name]) for name in wanted)


def test_a_run_that_goes_on_does_not_learn_its_encoder_again(store, tmp_path, monkeypatch):
    made = domain(store)
    made.agent(made.params(), 1).save(tmp_path / "checkpoints" / "00")
    monkeypatch.setattr(sight, "_learned", None)  # would be called
    again = domain(store, home=tmp_path)
    assert all(torch.equal(made.encoder[name], again.encoder[name]) for name in made.encoder)
    loaded = again.load(tmp_path / "checkpoints" / "00")
    assert loaded.learned_tasks == [TASKS[0]]
    assert all(torch.equal(made.encoder[name], loaded.encoder[name]) for name in made.encoder)


def learned(made, name, **options):
    options = Options(replay_samples=8, fisher_samples=8, memory=6, **options)
    how, training = METHODS[name].build(options), Training(steps=3, batch_size=4, warmup=1)
    return [s.theta.clone() for s in learn(made.model, made.params(), made.tasks, how, training, Streams(1), 1)]


def test_trust_regions_of_no_weight_are_replay_in_feature_space(store):
    made = domain(store)
    for name, replay in (("trcl", "replay_dark"), ("trcl_diag", "replay")):
        wanted = learned(made, replay)
        assert all(torch.equal(*pair) for pair in zip(learned(made, name, weight=0.0), wanted, strict=True))
        assert not torch.equal(learned(made, name, weight=3.0)[-1], wanted[-1])


@pytest.mark.parametrize("name", ["tdgr", "ftml_distill", "lamaml_distill", "packnet", "er_distill"])
def test_methods_that_mix_or_guide_learn_in_feature_space(store, name):
    made = domain(store, method=name, learns="first_task")
    assert torch.isfinite(learned(made, name)[-1]).all()


class Worlds:
    """Random walks of a real task's size, whose picture is the step's number."""

    def __init__(self, name, num_worlds=2, length=5):
        self.info, self.num_worlds = dataclasses.replace(task_info(name), horizon=length), num_worlds

    def reset(self, seeds):
        self.rng, self.now, self.rows = np.random.default_rng(seeds[0]), 0, len(seeds)
        return self.rng.normal(size=(self.rows, 39))

    def step(self, actions, active=None):
        self.now += 1
        none = np.zeros(self.rows, bool)
        return Step(self.rng.normal(size=(self.rows, 39)), np.zeros(self.rows), none, none)

    def scene(self, row):
        return Scene(self.info.name, np.array([self.now, row]))

    def renderer(self, width, height, camera=None):
        return self

    def frame(self, scene):
        rng = np.random.default_rng(scene.state.astype(int).tolist())
        return rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)

    def close(self):
        pass


@pytest.mark.parametrize("learns", ["always", "first_task"])
def test_rehearsed_windows_are_like_the_training_windows(store, learns, monkeypatch):
    made = domain(store, method="replay_rollout", learns=learns)
    monkeypatch.setattr(made, "env", Worlds)
    batch = made.tasks[0].rehearse(made.params(), 20, torch.Generator().manual_seed(0))
    real = made.tasks[0].samples.gather(torch.arange(20) % 12)
    assert {key: (leaf.shape, leaf.dtype) for key, leaf in batch.items()} == {
        key: (leaf.shape, leaf.dtype) for key, leaf in real.items()
    }
    drawn = [Worlds(TASKS[0]).frame(Scene("", np.array([now, row]))) for now in range(5) for row in range(2)]
    shown = torch.from_numpy(np.stack([drawn, drawn], axis=1))
    if learns == "always":
        known = {picture.numpy().tobytes() for picture in shown}
        assert {pictures[0].numpy().tobytes() for pictures in batch["pictures"]} <= known
        return
    vision = made.spec.vision
    with torch.no_grad():
        features = encode(vision.build(0), made.encoder, central(shown, vision))
    found = made.normalizer.unnormalize("observation", batch["observation"], 0)[:, 4:]
    assert torch.cdist(found, features).amin(1).max() < 1e-4


def test_the_method_decides_when_the_encoder_learns():
    chosen = {name: make_config({"policy": {"cameras": "robot"}, "method": {"name": name}}) for name in METHODS}
    fixed = {name for name, config in chosen.items() if config.encoder_learns == "first_task"}
    replays = {name: make_method(name).replay for name in METHODS}
    assert {n for n, r in replays.items() if isinstance(r, GeneratedReplay) and r.source == "generated"} == fixed
    assert {config.encoder_learns for config in chosen.values()} == {"first_task", "always"}


def test_defaults_are_resolved_and_come_back(tmp_path):
    config = load_config("vision-quick")
    assert config.policy.indices(39, "0:18,36:39") == (0, 1, 2, 3)
    assert RunConfig().policy.indices(39, "0:18,36:39") == (*range(18), 36, 37, 38)
    assert make_config({"policy": {"cameras": "a, b", "observation_indices": "0:2"}}).policy.camera_names == ("a", "b")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
    assert "encoder" in dump_config(config)
    assert "encoder" not in dump_config(RunConfig())


@pytest.mark.parametrize(
    ("policy", "method", "line"),
    [
        ({"cameras": "robot", "encoder": {"learns": "always"}}, "trcl", "policy.encoder.learns must be first_task or"),
        ({"encoder": {"width": 32}}, "er", "policy.cameras must be given for encoder to be of use, got none"),
        ({"image_size": 64}, "er", "policy.cameras must be given for image_size to be of use, got none"),
        ({"cameras": ["a", "a"]}, "er", "policy.cameras must be different ones, got a, a"),
        ({"cameras": "a", "crop_size": 0}, "er", "policy.crop_size must be >= 1 [pixels], got 0"),
        ({"cameras": "a", "encoder": {"learns": "later"}}, "er", "policy.encoder.learns must be one of auto, always"),
        ({"cameras": "a", "encoder": {"crops": 0}}, "er", "policy.encoder.crops must be >= 1, got 0"),
        ({"cameras": "a", "encoder": {"steps": 0}}, "er", "policy.encoder.steps must be >= 1, got 0"),
    ],
)
def test_impossible_settings_are_one_line(policy, method, line):
    with pytest.raises(ConfigError) as caught:
        make_config({"policy": policy, "method": {"name": method}})
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"cameras": "wrist"}, r"policy.cameras must be among those of .* \(front, robot\), got wrist"),
        ({"image_size": 32}, r"policy.image_size must be that of .*, 24 \[px\], got 32"),
        ({"crop_size": 25}, r"policy: crop_size must be in \[5, image_size = 24\] for 1 stages, got 25"),
        ({"encoder": {"width": 20}}, "policy: width must be a multiple of 16, got 20"),
        ({"encoder": {"backbone": "resnet50"}}, "policy: backbone must be one of resnet10, resnet18, got 'resnet50'"),
    ],
)
def test_what_does_not_fit_the_store_is_one_line(store, policy, line):
    with pytest.raises(ConfigError, match=line) as caught:
        domain(store, **policy)
    assert "\n" not in str(caught.value)


def test_a_store_without_pictures_says_how_to_get_them(tmp_path):
    with EpisodeStore.create(tmp_path / "s.zarr", [task_info(TASKS[0])]) as store:
        for _ in range(3):
            store.append(Episode(TASKS[0], np.zeros((4, 39)), np.zeros((4, 4)), np.ones(4, bool)))
    wish = {**document(tmp_path / "s.zarr"), "tasks": [TASKS[0]]}
    with pytest.raises(ConfigError, match=r"\(none; collect with --cameras\), got front, robot"):
        PolicyDomain(make_config(wish))
