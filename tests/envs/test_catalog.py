import collections
import subprocess
import sys
import types

import pytest

import trcl_envs
from trcl_envs import metaworld


def test_sequences_hold_known_tasks_and_cw20_is_cw10_twice():
    names = trcl_envs.task_names()
    assert all(task in names for sequence in trcl_envs.SEQUENCES.values() for task in sequence)
    assert trcl_envs.SEQUENCES["cw20"] == trcl_envs.SEQUENCES["cw10"] * 2
    assert len(set(trcl_envs.SEQUENCES["cw10"])) == 10


def test_meta_worlds_fifty_tasks_and_standard_sets_are_there():
    env_dict = pytest.importorskip("metaworld.env_dict")
    assert [n for n in trcl_envs.task_names() if n.endswith("-v3")] == sorted(env_dict.ALL_V3_ENVIRONMENTS)
    assert trcl_envs.SEQUENCES["mt10"] == tuple(env_dict.MT10_V3)
    assert trcl_envs.SEQUENCES["mt50"] == tuple(env_dict.MT50_V3)


def test_every_task_has_its_own_instruction():
    instructions = [trcl_envs.task_info(name).instruction for name in trcl_envs.task_names()]
    assert len(set(instructions)) == len(instructions) > 50
    assert all(text[0].isupper() and text.endswith(".") for text in instructions)


def test_random_orders_are_what_they_were():
    assert trcl_envs.resolve_sequence("random3:7") == ("bin-picking-v3", "hand-insert-v3", "pick-place-v3")
    assert trcl_envs.resolve_sequence("shuffle:hammer,push,reach:4") == ("push-v3", "hammer-v3", "reach-v3")


def test_random_order_holds_different_tasks_and_is_the_head_of_the_shuffled_fifty():
    whole = trcl_envs.resolve_sequence("shuffle:mt50:3")
    assert sorted(whole) == sorted(trcl_envs.SEQUENCES["mt50"])
    assert trcl_envs.resolve_sequence("random50:3") == whole
    assert trcl_envs.resolve_sequence("random20:3") == whole[:20]


def test_shuffling_keeps_repeated_tasks_and_takes_any_sequence(tmp_path):
    (tmp_path / "list.yaml").write_text("- hammer\n- push-v3\n")
    twice = trcl_envs.resolve_sequence("shuffle:cw20:1")
    assert sorted(twice) == sorted(trcl_envs.SEQUENCES["cw20"])
    assert twice[::2] != twice[1::2]  # the two of a kind move on their own
    assert sorted(trcl_envs.resolve_sequence(f"shuffle:{tmp_path / 'list.yaml'}:1")) == ["hammer-v3", "push-v3"]
    assert sorted(trcl_envs.resolve_sequence("shuffle:random9:5:1")) == sorted(trcl_envs.resolve_sequence("random9:5"))


def test_all_orders_are_equally_likely():
    orders = collections.Counter(
        trcl_envs.resolve_sequence(f"shuffle:push,reach,hammer,soccer:{s}") for s in range(2400)
    )
    assert len(orders) == 24
    chi_squared = sum((count - 100) ** 2 / 100 for count in orders.values())
    assert chi_squared < 50  # 23 degrees of freedom: one in a thousand lies above 49.7


def test_sequence_is_read_from_name_string_list_and_file(tmp_path):
    expected = ("hammer-v3", "push-v3")
    (tmp_path / "list.yaml").write_text("- hammer\n- push-v3\n")
    (tmp_path / "mapping.yaml").write_text("tasks: [hammer-v3, push]\n")
    for spec in (
        "hammer, push",
        ["hammer-v3", "push"],
        str(tmp_path / "list.yaml"),
        tmp_path / "mapping.yaml",
    ):
        assert trcl_envs.resolve_sequence(spec) == expected
    assert trcl_envs.resolve_sequence("quick") == trcl_envs.SEQUENCES["quick"]
    assert trcl_envs.resolve_sequence("hammer") == ("hammer-v3",)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hamer", "task or sequence must be one of cw10, .*got 'hamer'.*did you mean 'hammer-v3'"),
        ("cw1O", "did you mean 'cw10'"),
        (["push", "pushwall-v3"], "task must be one of .*did you mean 'push-wall-v3'"),
        ([], "non-empty list"),
        ("random51:1", "random order must be randomN:SEED with N in 1..50.*got 'random51:1'"),
        ("random0:1", "N in 1..50"),
        ("random20", "such as random20:7"),
        ("random20:x", "such as random20:7"),
        ("shuffle:mt50", "such as shuffle:mt50:7.*got 'shuffle:mt50'"),
        ("shuffle:mt5O:1", "did you mean 'mt50'"),
        ("randm20:7", "did you mean 'randomN:SEED'"),
        ("missing.yaml", "can't read missing.yaml"),
    ],
)
def test_unknown_names_are_told_with_the_nearest_match(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        trcl_envs.resolve_sequence(spec)
    assert "\n" not in str(caught.value)


def test_file_without_a_list_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("steps: 3\n")
    with pytest.raises(ValueError, match="must hold a list"):
        trcl_envs.resolve_sequence(tmp_path / "bad.yaml")


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend must be one of cpu, gpu, warp-cpu; got 'tpu'"):
        trcl_envs.make_env("push", 1, backend="tpu")


def test_facts_need_no_simulator():
    code = (
        "import sys, trcl_envs; info = trcl_envs.task_info('hammer'); trcl_envs.resolve_sequence('cw20');"
        "print(info.name, info.observation_dim, info.horizon, info.control_frequency,"
        "[m for m in ('mujoco', 'metaworld', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "hammer-v3 39 200 80.0 []"


def test_missing_metaworld_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(metaworld, "find_spec", lambda name: None)
    with pytest.raises(trcl_envs.SimulationError, match=r"pip install 'trcl-policy\[sim\]'"):
        trcl_envs.make_env("push", 1)


def test_missing_policies_are_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld.policies", None)
    with pytest.raises(trcl_envs.SimulationError, match=r"pip install 'trcl-policy\[sim\]'"):
        trcl_envs.make_expert("coffee-pull")


def stand_in(monkeypatch, mujoco="4.0.0", cuda=False):
    """Packages that look like Warp's, as far as it is asked before anything is simulated."""
    warp = types.ModuleType("warp")
    warp.config, warp.LOG_WARNING = types.SimpleNamespace(log_level=20), 30
    warp.is_cuda_available = lambda: cuda
    monkeypatch.setitem(sys.modules, "warp", warp)
    monkeypatch.setitem(sys.modules, "mujoco_warp", types.ModuleType("mujoco_warp"))
    monkeypatch.setattr("trcl_envs.gpu.import_mujoco", lambda: types.SimpleNamespace(__version__=mujoco))


def test_gpu_without_mujoco_warp_names_the_set_up(monkeypatch):
    for name in ("warp", "mujoco_warp"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(trcl_envs.SimulationError, match=r"needs mujoco-warp .*: run ./scripts/setup --gpu$"):
        trcl_envs.make_env("push-v3", 1, backend="gpu")


def test_gpu_without_a_device_names_the_backends_that_need_none(monkeypatch):
    stand_in(monkeypatch)
    with pytest.raises(trcl_envs.SimulationError, match=r"needs a CUDA device.*use backend cpu, or warp-cpu"):
        trcl_envs.make_env("push-v3", 1, backend="gpu")


def test_gpu_beside_metaworlds_own_mujoco_names_the_set_up(monkeypatch):
    stand_in(monkeypatch, mujoco="3.3.0", cuda=True)
    with pytest.raises(trcl_envs.SimulationError, match=r"needs MuJoCo 4.0, got 3.3.0: run ./scripts/setup --gpu"):
        trcl_envs.make_env("push-v3", 1, backend="gpu")


@pytest.mark.parametrize("room", ["much", "0", "-1", "nan"])
def test_room_must_be_a_sensible_factor(monkeypatch, room):
    monkeypatch.setenv("TRCL_GPU_ROOM", room)
    with pytest.raises(ValueError, match=f"TRCL_GPU_ROOM must be a number above 0 and below 1000, got '{room}'"):
        trcl_envs.make_env("push-v3", 1, backend="gpu")
