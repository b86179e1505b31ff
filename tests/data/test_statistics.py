"""Statistics gathered in blocks are those of the whole."""

import numpy as np
import pytest

from trcl_policy.data.statistics import Summary


@pytest.mark.parametrize("picture", [False, True])
def test_blocks_and_episodes_give_the_statistics_of_the_whole(picture):
    rng, entries = np.random.default_rng(0), []
    whole = rng.integers(0, 256, (23, 4, 5, 3), np.uint8) if picture else rng.normal(1e4, 1e-2, (23, 3))
    for episode in np.split(whole, [4, 5, 17]):
        summary = Summary(picture)
        for block in np.array_split(episode, min(3, len(episode))):
            summary.add(block)
        entries.append({f"stats/x/{name}": value for name, value in summary.result().items()})
    found, flat = Summary.merged(entries, "x"), whole.reshape(-1, 3) / (255 if picture else 1)
    for name, value in (("min", flat.min(0)), ("max", flat.max(0)), ("mean", flat.mean(0)), ("std", flat.std(0))):
        np.testing.assert_allclose(np.reshape(found[name], -1), value, rtol=1e-6, err_msg=name)
        assert np.shape(found[name]) == ((3, 1, 1) if picture else (3,))
    assert found["count"] == [len(flat)]


def test_values_that_json_can_not_say_have_no_statistics():
    summary = Summary(False)
    summary.add(np.array([[1.0], [np.nan]]))
    assert summary.result() == {}
    assert Summary.merged([{"episode_index": 0}], "x") == {}
