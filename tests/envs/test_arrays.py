"""The tasks' functions on NumPy arrays and on torch tensors: same numbers, same kind, dtype and device."""

import numpy as np
import pytest
import torch

from trcl_envs.arrays import constant
from trcl_envs.catalog import task_spec
from trcl_envs.interface import Reading
from trcl_envs.metaworld_tasks import TASKS

ROWS, THINGS = 2000, 40
WIDTHS = {"xpos": 3, "xquat": 4, "xmat": 9, "site_xpos": 3, "geom_xpos": 3, "geom_xmat": 9}
HOOP = 0.3  # [m], the height at which basketball wants the ball; half of the scenes hang there


class AnyIndex(dict):
    """A row for every name, in the order in which they are asked for."""

    def __missing__(self, name):
        self[name] = len(self) % THINGS
        return self[name]


def scene(seed=0):
    """Random worlds in which things lie around a goal closely enough that tasks are sometimes solved."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.uniform(-0.12, 0.12, (ROWS, THINGS, width)) for name, width in WIDTHS.items()}
    for name in ("xpos", "site_xpos", "geom_xpos"):
        arrays[name][::2, :, 2] += HOOP
    turns = np.linalg.qr(rng.normal(size=(ROWS, THINGS, 3, 3)))[0]
    turns[..., 0] *= np.linalg.det(turns)[..., None]
    arrays["xmat"] = turns.reshape(ROWS, THINGS, 9)
    arrays["geom_xmat"] = np.roll(arrays["xmat"], 1, axis=0)
    arrays |= {"qpos": rng.uniform(-2, 2, (ROWS, THINGS)), "qvel": rng.normal(size=(ROWS, THINGS))}
    return arrays | {"contact_force": rng.uniform(-0.5, 1.0, (ROWS, 2))}


def answers(spec, arrays, index, convert):
    """All that a task's functions say about these worlds, by name."""
    draws = np.stack([spec.sample(np.random.default_rng(seed)) for seed in range(10)])
    draws = convert(np.tile(draws, (ROWS // 10, 1)))
    reading = Reading(index=index, **{name: convert(array) for name, array in arrays.items()})
    actions, near = convert(arrays["xquat"][:, 0] * 20), reading.position("site:anything")
    frame, goal = spec.frame(reading), spec.goal(draws, reading)
    observation = spec.observe(frame, frame * 2, goal)
    success = spec.success(reading, observation, near)
    ctrl, mocap_pos = spec.command(actions, near)
    placement = spec.place(draws, reading)
    return {
        **spec.overrides(draws),
        **{f"place {first}": values for first, values in placement.qpos.items()},
        "frame": frame,
        "goal": goal,
        "observation": observation,
        "success": success,
        "reward": spec.reward(reading, observation, near, success, actions),
        "ctrl": ctrl,
        "mocap_pos": mocap_pos,
    }


@pytest.fixture(scope="module")
def arrays():
    return scene()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_torch_gives_what_numpy_gives(name, arrays):
    spec, index = task_spec(name), AnyIndex()
    expected = answers(spec, arrays, index, lambda array: array)
    found = answers(spec, arrays, index, torch.from_numpy)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert isinstance(value, np.ndarray)
        assert isinstance(found[key], torch.Tensor)
        assert value.dtype == (bool if key == "success" else np.float64)
        np.testing.assert_allclose(found[key].numpy(), value, rtol=1e-12, atol=1e-12, err_msg=key)
    assert 0 < expected["success"].sum() < ROWS


@pytest.mark.parametrize("name", sorted(TASKS))
def test_single_precision_and_device_are_kept(name, arrays):
    few = {key: array[:2] for key, array in arrays.items()}
    few = {key: np.tile(array, (ROWS // 2, *[1] * (array.ndim - 1))) for key, array in few.items()}
    found = answers(task_spec(name), few, AnyIndex(), lambda array: torch.from_numpy(array).float().to("meta"))
    kinds = {key: (value.dtype, value.device.type) for key, value in found.items()}
    assert {kind for key, kind in kinds.items() if key != "success"} == {(torch.float32, "meta")}
    assert kinds["success"] == (torch.bool, "meta")


def test_constants_are_kept_and_never_written_into():
    like = np.zeros((3, 2))
    once = constant((1.0, 2.0), like)
    assert constant([1, 2], like) is once
    assert constant((1.0, 2.0), like.astype(np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        once[0] = 5.0
