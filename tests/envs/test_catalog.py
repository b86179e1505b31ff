import subprocess
import sys

import pytest

import trcl_envs
from trcl_envs import metaworld


def test_sequences_hold_known_tasks_and_cw20_is_cw10_twice():
    names = trcl_envs.task_names()
    assert all(task in names for sequence in trcl_envs.SEQUENCES.values() for task in sequence)
    assert trcl_envs.SEQUENCES["cw20"] == trcl_envs.SEQUENCES["cw10"] * 2
    assert len(set(trcl_envs.SEQUENCES["cw10"])) == 10


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
        ("hamer", "task or sequence must be one of .*got 'hamer'.*did you mean 'hammer-v3'"),
        ("cw1O", "did you mean 'cw10'"),
        (["push", "pushwall-v3"], "task must be one of .*did you mean 'push-wall-v3'"),
        ([], "non-empty list"),
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
    with pytest.raises(ValueError, match="backend must be one of cpu; got 'gpu'"):
        trcl_envs.make_env("push", 1, backend="gpu")


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
        trcl_envs.make_expert("push")
