"""Windows against a slow reference."""

import numpy as np
import pytest
import torch

from trcl_policy.policy.windows import Shape, Windows

ENDS = np.array([3, 4, 11])  # one episode has a single step


def arrays():
    steps = torch.arange(11.0)
    return {"observation": torch.stack([steps, -steps], 1), "action": steps[:, None] + 100}


@pytest.mark.parametrize(("n_obs_steps", "horizon"), [(1, 1), (1, 8), (3, 2), (6, 16)])
def test_gather_equals_a_slow_reference(n_obs_steps, horizon):
    data = arrays()
    windows = Windows(data, ENDS, 5, Shape(2, 1, n_obs_steps, horizon))
    assert len(windows) == 11
    index = torch.tensor([4, 0, 10, 3, 2, 2, 7])
    found = windows.gather(index)
    for row, step in enumerate(index.tolist()):
        first = max([0, *[end for end in ENDS if end <= step]])
        last = min(end for end in ENDS if end > step) - 1
        past = [max(step + shift, first) for shift in range(-n_obs_steps + 1, 1)]
        future = [min(step + shift, last) for shift in range(horizon)]
        assert found["observation"][row].tolist() == [v for t in past for v in data["observation"][t].tolist()]
        assert found["action"][row].tolist() == [100.0 + t for t in future]
    assert found["task"].tolist() == [5] * 7


@pytest.mark.parametrize("ends", [[], [3, 3, 11], [3, 10], [5, 4, 11], [12]])
def test_ends_that_do_not_fit_are_refused(ends):
    with pytest.raises(ValueError, match="episode_ends must rise to the number of steps 11"):
        Windows(arrays(), np.array(ends, dtype=int), 0, Shape(2, 1, 1, 4))
