"""Eyes: what is drawn, when, and that policies with cameras act, rehearse and are collected for like all others."""

import numpy as np
import pytest
import torch

from tests.rollout.fake_sim import PointEnv, PointExpert
from trcl_policy.data.store import EpisodeStore
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.controller import Policy, PolicySpec
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.trajectory import Network
from trcl_policy.policy.vision import Vision
from trcl_policy.policy.windows import Shape
from trcl_policy.rollout.collect import collect
from trcl_policy.rollout.evaluate import evaluate
from trcl_policy.rollout.rehearse import rehearse
from trcl_policy.rollout.seeing import Eyes, Seeing, with_eyes

SIZE = 16
VISION = Vision(("robot", "front"), SIZE, 12, stages=1, keypoints=2, learns="always")


class Painter:
    """Paints the point's place and the time into the picture; counts."""

    def __init__(self, size, camera):
        self.size, self.camera, self.drawn = size, camera, []

    def frame(self, scene):
        self.drawn.append(scene.state.copy())
        picture = np.zeros((self.size, self.size, 3), np.uint8)
        picture[..., 0] = 90 if self.camera == "front" else 10
        picture[: 1 + int(scene.state[-1]) % self.size, :, 1] = 200
        column = int(np.clip(8 + 8 * scene.state[0], 0, self.size - 1))
        picture[:, column, 2] = 255
        return picture

    def close(self):
        pass


class DrawnEnv(PointEnv):
    """Points that can be drawn."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.painters, self.moved_things = {}, 0.0

    def renderer(self, width, height, camera=None):
        assert width == height
        return self.painters.setdefault(camera, Painter(width, camera))

    def scene(self, row):
        scene = super().scene(row)  # a world that is not moved any more keeps its state
        scene.overrides["body_pos:box"] = np.full(3, self.moved_things)
        scene.state[-1] = self.moved_of(row)
        if self.broken_at is not None and self.time >= self.broken_at and self.seeds[row] % 2 == 0:
            scene.state[:] = np.nan
        return scene

    def moved_of(self, row):
        now = self.moved[self.started[-1] :]
        return sum(active[row] for active in now)


def make_policy(n_obs_steps=1, n_action_steps=4):
    spec = PolicySpec(
        ("point",), Shape(2 + VISION.num_features, 2, n_obs_steps, 4), (0, 1), n_action_steps,
        Network(width=8, depth=1), Diffusion(num_train_timesteps=20, acting_steps=2), vision=VISION,
    )  # fmt: skip
    model = spec.model(0)
    low = {"observation": -torch.ones(1, spec.shape.observation_dim), "action": -torch.ones(1, 2)}
    params = {name: p.detach() for name, p in model.net.named_parameters()}
    return Policy(spec, model, params, Normalizer(low, {k: -v for k, v in low.items()}))


def test_only_worlds_that_moved_are_drawn_again():
    env = DrawnEnv(num_worlds=3)
    eyes = Eyes(env, ("robot", "front"), SIZE)
    env.reset([1, 2, 4])
    first = eyes.look(3)
    env.step(np.ones((3, 2)), np.array([True, False, True]))
    second = eyes.look(3)
    assert {camera: len(painter.drawn) for camera, painter in env.painters.items()} == {"robot": 5, "front": 5}
    for camera in ("robot", "front"):
        assert second[camera].shape == (3, SIZE, SIZE, 3)
        same = (first[camera] == second[camera]).all(axis=(1, 2, 3))
        assert same.tolist() == [False, True, False]
    assert (first["robot"][..., 0] == 10).all()
    assert (first["front"][..., 0] == 90).all()
    env.moved_things = 1.0  # bodies elsewhere, as after a reset: the same state looks different
    eyes.look(3)
    assert len(env.painters["robot"].drawn) == 8


def test_a_broken_world_keeps_its_last_picture():
    env = DrawnEnv(num_worlds=2, broken_at=1)
    eyes = Eyes(env, ("robot",), SIZE)
    env.reset([1, 2])
    before = eyes.look(2)["robot"]
    env.step(np.ones((2, 2)))
    after = eyes.look(2)["robot"]
    assert np.array_equal(before[1], after[1])
    assert not np.array_equal(before[0], after[0])
    assert np.isfinite(env.painters["robot"].drawn).all()


@pytest.mark.parametrize(("n_obs_steps", "looks"), [(1, 8), (2, 15), (4, 30)])
def test_worlds_are_drawn_only_when_the_policy_looks(n_obs_steps, looks):
    """30 steps, a look every 4: 8 looks, each with a history of ``n_obs_steps`` steps (the first has no past)."""
    env = DrawnEnv(num_worlds=2)
    evaluate(make_policy(n_obs_steps), env, [3, 6])  # out of reach: all 30 steps
    assert len(env.painters["robot"].drawn) == 2 * looks


def test_an_episode_is_the_same_whatever_runs_beside_it():
    def rolled(seeds):
        episodes = evaluate(make_policy(), DrawnEnv(num_worlds=25), seeds)
        return {episode.seed: episode for episode in episodes}

    together = rolled(list(range(40)))
    for seeds in ([7], [12, 39, 0]):
        assert rolled(seeds) == {seed: together[seed] for seed in seeds}


def test_what_is_shown_matters():
    class Blind(DrawnEnv):
        def renderer(self, width, height, camera=None):
            painter = super().renderer(width, height, camera)
            painter.frame = lambda scene: np.zeros((width, width, 3), np.uint8)
            return painter

    policy, moves = make_policy(), []
    for env in (DrawnEnv(num_worlds=1), Blind(num_worlds=1)):
        seen = with_eyes(policy, env)
        observation = env.reset([1])
        seen.reset("point", [1])
        moves.append(seen.select_action(observation))
    assert not np.array_equal(*moves)


def test_policies_without_cameras_are_left_alone():
    walker = PointExpert()
    assert with_eyes(walker, PointEnv()) is walker
    assert isinstance(with_eyes(make_policy(), DrawnEnv()), Seeing)
    with pytest.raises(ValueError, match="cameras need worlds that can be drawn, got PointEnv for point"):
        with_eyes(make_policy(), PointEnv())


def test_rehearsal_has_the_picture_of_every_step():
    env = DrawnEnv(num_worlds=2)
    met = rehearse(make_policy(), env, 1, lambda count: range(3, 3 + 3 * count, 3))
    assert met.images.keys() == {"robot", "front"}
    assert met.images["robot"].shape == (len(met.action), SIZE, SIZE, 3)
    assert met.episode_ends.tolist() == [30, 60]
    steps = (met.images["robot"][:, :, 0, 1] > 0).sum(axis=1)
    assert steps.tolist() == [1 + step % SIZE for step in range(30)] * 2
    columns = np.clip(8 + 8 * met.observation[:, 0], 0, SIZE - 1).astype(int)
    assert (met.images["front"][np.arange(60), 0, columns, 2] == 255).all()


def collected(path, **options):
    store = EpisodeStore.open(path, "a") if path.exists() else EpisodeStore.create(path)
    options = {"cameras": ("robot", "front"), "image_size": SIZE, **options}
    with store:
        collect(store, lambda task, num: DrawnEnv(task, num), lambda task: PointExpert(), "point", **options)
        return store.fingerprint()


def test_collected_pictures_are_those_of_their_steps(tmp_path):
    collected(tmp_path / "s", episodes=5, num_worlds=3)
    store = EpisodeStore.open(tmp_path / "s")
    assert store.cameras == ("front", "robot")
    rows = np.arange(store.num_rows)
    pictures, state = store.take("observation.images.robot", rows), store.read("observation.state")
    assert pictures.shape == (len(rows), SIZE, SIZE, 3)
    columns = np.clip(8 + 8 * state[:, 0], 0, SIZE - 1).astype(int)
    assert (pictures[rows, 0, columns, 2] == 255).all()
    for start, stop in store.episodes_of("point"):
        steps = (pictures[start:stop, :, 0, 1] > 0).sum(axis=1)
        assert steps.tolist() == [1 + step % SIZE for step in range(stop - start)]


def test_pictures_do_not_depend_on_worlds_or_interruptions(tmp_path):
    wanted = collected(tmp_path / "whole", episodes=5, num_worlds=1)
    collected(tmp_path / "parts", episodes=2, num_worlds=4)
    assert collected(tmp_path / "parts", episodes=5, num_worlds=2) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ()}, "cameras must be front,robot, as in .*, got none"),
        ({"cameras": ("robot",)}, "cameras must be front,robot, as in .*, got robot"),
        ({"image_size": 8}, r"image_size must be that of .*, 16 \[px\], got 8"),
        ({"cameras": ("robot", "robot")}, "cameras must differ and image_size be >= 1"),
    ],
)
def test_pictures_that_do_not_fit_the_store_are_refused(tmp_path, options, message):
    before = collected(tmp_path / "s", episodes=1)
    with pytest.raises(ValueError, match=message):
        collected(tmp_path / "s", episodes=2, **options)
    assert EpisodeStore.open(tmp_path / "s").fingerprint() == before
