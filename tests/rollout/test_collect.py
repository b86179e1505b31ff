import numpy as np
import pytest

from tests.rollout.fake_sim import HORIZON, PointEnv, PointExpert
from trcl_policy.commands import collect as commands
from trcl_policy.data.store import EpisodeStore
from trcl_policy.files import FileError
from trcl_policy.rollout.collect import CollectError, collect, episode_seed


class Factory:
    """Builds point worlds and remembers them."""

    def __init__(self, **kwargs):
        self.built, self.kwargs = [], kwargs

    def __call__(self, task, num_worlds):
        self.built.append(PointEnv(task, num_worlds, **self.kwargs))
        return self.built[-1]


def run(path, episodes=7, task="point", envs=None, **kwargs):
    opened = EpisodeStore.open(path, "a") if path.exists() else EpisodeStore.create(path)
    with opened as store:
        report = collect(store, envs or Factory(), lambda _: PointExpert(), task, episodes, **kwargs)
        return report, store.fingerprint(), store.attempts_of(task).tolist()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("wanted") / "s", num_worlds=1)


@pytest.mark.parametrize("num_worlds", [2, 3, 5, 20])
def test_number_of_worlds_changes_nothing(tmp_path, wanted, num_worlds):
    report, fingerprint, attempts = run(tmp_path / "s", num_worlds=num_worlds)
    assert (fingerprint, attempts) == wanted[1:]
    assert (report.kept, report.failed, report.steps) == (wanted[0].kept, wanted[0].failed, wanted[0].steps)


def test_failures_are_thrown_away_and_counted(wanted):
    report, _, attempts = wanted
    reachable = [i for i in range(40) if episode_seed("collect", "point", 0, i) % 3]
    assert attempts == reachable[:7]
    assert (report.kept, report.failed, report.already) == (7, attempts[-1] + 1 - 7, 0)
    assert report.failed > 0


def test_collection_in_parts_equals_one_collection(tmp_path, wanted):
    first, _, _ = run(tmp_path / "s", episodes=3, num_worlds=2)
    second, fingerprint, attempts = run(tmp_path / "s", episodes=7, num_worlds=4)
    assert (fingerprint, attempts) == wanted[1:]
    assert (first.kept, second.kept, second.already) == (3, 4, 3)
    assert first.failed + second.failed == wanted[0].failed
    assert first.steps + second.steps == wanted[0].steps
    factory = Factory()
    assert run(tmp_path / "s", episodes=5, envs=factory)[0].kept == 0
    assert not factory.built  # nothing to do: no simulator is started


def test_stored_actions_are_the_executed_ones_clipped_and_noisy(tmp_path):
    run(tmp_path / "s", noise=0.3)
    store = EpisodeStore.open(tmp_path / "s")
    clean_path = tmp_path / "clean"
    run(clean_path, noise=0.0)
    state, action = store.read("observation.state"), store.read("action")
    assert np.abs(action).max() == 1
    for start, stop in store.episodes_of("point"):
        moved = np.diff(state[start:stop, :2], axis=0)
        np.testing.assert_allclose(moved, 0.1 * action[start : stop - 1], atol=1e-6)
    clean = EpisodeStore.open(clean_path)
    raw = 20 * (clean.read("observation.state")[:, 2:] - clean.read("observation.state")[:, :2])
    np.testing.assert_allclose(clean.read("action"), np.clip(raw, -1, 1), atol=1e-5)
    noise = action - np.clip(20 * (state[:, 2:] - state[:, :2]), -1, 1)
    assert (np.abs(noise) > 1e-4).any()


def test_noise_has_the_given_standard_deviation_and_its_own_stream_per_attempt(tmp_path):
    from trcl_policy.rollout.collect import Settings, _noise

    noise = _noise(Settings(noise=0.3), "point", range(5), 2000, 4)
    assert noise.std() == pytest.approx(0.3, rel=0.03)
    np.testing.assert_array_equal(noise[:, 3], _noise(Settings(noise=0.3), "point", range(3, 4), 2000, 4)[:, 0])
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("extra", [0, 4])
def test_episode_ends_extra_steps_after_its_first_success(tmp_path, extra):
    run(tmp_path / "s", noise=0.0, extra_steps=extra)
    store = EpisodeStore.open(tmp_path / "s")
    success = store.read("success")
    for start, stop in store.episodes_of("point"):
        assert np.flatnonzero(success[start:stop])[0] == stop - start - 1 - extra


def test_finished_worlds_stand_still_and_the_batch_stops_with_the_last(tmp_path):
    factory = Factory()
    run(tmp_path / "s", envs=factory, noise=0.0)
    env, starts = factory.built[0], factory.built[0].started
    assert env.closed
    for batch in np.split(np.arange(len(env.moved)), starts[1:]):
        moved = np.stack([env.moved[step] for step in batch])
        assert moved[0].all()
        assert moved[-1].any()  # nothing runs on after the last world has finished
        assert (np.diff(moved.astype(int), axis=0) <= 0).all()  # who has finished never moves again
    stored = [stop - start for start, stop in EpisodeStore.open(tmp_path / "s").episodes_of("point")]
    assert set(stored) <= set(
        np.concatenate([np.sum(env.moved[a:b], axis=0) for a, b in zip(starts, [*starts[1:], None], strict=True)])
    )


def test_episode_whose_physics_broke_counts_as_failed(tmp_path):
    _, _, attempts = run(tmp_path / "s", episodes=3, envs=Factory(broken_at=2))
    late = Factory(broken_at=25)  # after the success, within the extra steps
    assert run(tmp_path / "late", episodes=3, envs=late, extra_steps=29)[2] == attempts
    seeds = [episode_seed("collect", "point", 0, i) for i in range(60)]
    assert attempts == [i for i, seed in enumerate(seeds) if seed % 3 and seed % 2][:3]


def test_hopeless_expert_is_one_line(tmp_path):
    class Idle(PointExpert):
        def actions(self, observations):
            return np.zeros((len(observations), 2))

    factory = Factory()
    with EpisodeStore.create(tmp_path / "s") as store:
        with pytest.raises(CollectError, match=r"^point: 0 of 2 episodes after 20 attempts; try less noise than 0\.1$"):
            collect(store, factory, lambda _: Idle(), "point", 2)
        assert len(store) == 0
    assert factory.built[0].closed


def test_tasks_and_seeds_have_their_own_attempts(tmp_path, wanted):
    assert run(tmp_path / "a", seed=1)[1] != wanted[1]
    seeds = {episode_seed(p, t, s, i) for p in "ab" for t in "xy" for s in (0, 1) for i in range(100)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_settings_are_stored_and_must_stay(tmp_path):
    run(tmp_path / "s", noise=0.2)
    with EpisodeStore.open(tmp_path / "s", "a") as store:
        assert store.provenance["collect"]["point"] == {"seed": 0, "noise": 0.2, "extra_steps": 0}
        assert store.tasks[0].control_frequency == 25.0
        for name, value in (("noise", 0.1), ("seed", 5), ("extra_steps", 1)):
            settings = {"noise": 0.2, name: value}
            with pytest.raises(ValueError, match=rf"{name} must be .*, as for point in .*, got {value}"):
                collect(store, Factory(), lambda _: PointExpert(), "point", 9, **settings)


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"noise": -1}, "noise must be >= 0"),
        ({"noise": float("nan")}, "noise must be >= 0"),
        ({"extra_steps": -1}, "extra_steps must be >= 0"),
        ({"num_worlds": 0}, "num_worlds must be >= 1"),
        ({"episodes": -1}, "episodes >= 0"),
    ],
)
def test_impossible_numbers_are_named_before_anything_is_written(tmp_path, kwargs, line):
    with EpisodeStore.create(tmp_path / "s") as store:
        with pytest.raises(ValueError, match=line):
            collect(store, Factory(), lambda _: PointExpert(), "point", **{"episodes": 2, **kwargs})
        assert store.task_names == ()


@pytest.mark.sim
def test_metaworld_experts_fill_a_store_whatever_the_number_of_worlds(tmp_path):
    pytest.importorskip("metaworld")
    from trcl_envs.catalog import make_env, make_expert

    prints = []
    for num_worlds in (1, 3):
        with EpisodeStore.create(tmp_path / str(num_worlds)) as store:
            report = collect(store, make_env, make_expert, "window-close-v3", 3, num_worlds=num_worlds)
            prints.append(store.fingerprint())
            assert report.kept == 3
            assert store.read("observation.state").shape[1] == 39
            assert np.abs(store.read("action")).max() <= 1
    assert prints[0] == prints[1]
    assert report.steps < 3 * HORIZON * 10


def test_a_second_collection_waits_for_the_first(tmp_path, monkeypatch, capsys):
    first, looks = EpisodeStore.create(tmp_path / "s"), []

    def passes(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            first.close()

    monkeypatch.setattr(commands.time, "sleep", passes)
    with commands.open_when_free(tmp_path / "s") as second:
        assert len(second) == 0
    assert looks == [commands.PATIENCE] * 2
    assert capsys.readouterr().out == f"{tmp_path / 's'}: another process is appending to it, waiting\n"


def test_of_two_first_collections_the_later_one_goes_on_with_the_store_of_the_other(tmp_path):
    EpisodeStore.create(tmp_path / "s", provenance={"by": "the other"}).close()
    with commands.create_or_open(tmp_path / "s", {"by": "this one"}) as store:
        assert store.provenance == {"by": "the other"}
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="can't write"):
        commands.create_or_open(tmp_path / "file" / "s", {})
