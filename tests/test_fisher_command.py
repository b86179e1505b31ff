"""``trcl fisher`` on a finished run."""

import json

import pytest
import torch

from tests.tiny import TASKS, tiny
from trcl_policy.commands.fisher import noise_ranges

__all__ = ["tiny"]

RANGES = ["all", "0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00"]


def test_noise_ranges_hold_every_sample_once():
    level = torch.arange(1, 101) / 100
    ranges = noise_ranges(level)
    assert list(ranges) == RANGES
    assert ranges["all"].all()
    assert [int(ranges[name].sum()) for name in RANGES[1:]] == [25, 25, 25, 25]
    assert (sum(ranges[name].int() for name in RANGES[1:]) == 1).all()


def test_noise_level_is_that_of_the_noisiest_part():
    from trcl_policy.diffusion.denoiser import Denoiser
    from trcl_policy.diffusion.process import Diffusion, Process

    model = Denoiser(torch.nn.Identity(), Process(Diffusion()), {"a": 1, "b": 1}, ())
    most = model.process.num_levels
    level = model.noise_level({"level": torch.tensor([[0, most], [most // 2, 0], [0, 0]])})
    torch.testing.assert_close(level, torch.tensor([1.0, (most // 2) / most, 0.0]))


@pytest.mark.sim
def test_spectra_of_all_learned_tasks_are_written_told_and_drawn(tiny):
    done = tiny.trcl("fisher", tiny.finished, "--samples", 64, "--json")
    assert done.status == 0, done.stderr
    told = json.loads(done.stdout)
    stored = json.loads((tiny.finished / "fisher.json").read_text())
    assert told["tasks"] == stored["tasks"]
    assert stored["checkpoint"] == "02"
    for name in ("fisher.png", "fisher-convergence.png"):
        assert (tiny.finished / name).read_bytes()[:4] == b"\x89PNG"
    assert tuple(told["tasks"]) == TASKS
    for ranges in told["tasks"].values():
        assert list(ranges) == RANGES
        assert sum(ranges[name]["num_samples"] for name in RANGES[1:]) == ranges["all"]["num_samples"] == 64
        for entry in ranges.values():
            shares = list(entry["top_shares"].values())
            assert 0 < shares[0] <= shares[-1] <= 1 + 1e-6
            assert shares == sorted(shares)
            assert 1 <= entry["effective_rank"] <= entry["num_samples"]
            assert entry["mean_rank1_share"] <= shares[0] + 1e-6
            assert 0 < entry["diagonal_cosine"] <= 1 + 1e-6
            sizes = [int(size) for size in entry["convergence"]]
            assert sizes == [entry["num_samples"] >> level for level in range(len(sizes), 0, -1)]
            assert list(entry["convergence"].values())[-1] == entry["diagonal_cosine"]


@pytest.mark.sim
def test_one_task_as_a_table(tiny):
    done = tiny.trcl("fisher", tiny.finished, "--task", TASKS[1].removesuffix("-v3"), "--samples", 64)
    assert done.status == 0, done.stderr
    assert done.stdout.count(TASKS[1]) == 2 * len(RANGES)
    assert "1/16" in done.stdout
    assert TASKS[0] not in done.stdout
    assert "top 16" in done.stdout


@pytest.mark.sim
def test_what_cannot_be_measured_is_refused(tiny):
    done = tiny.trcl("fisher", tiny.finished, "--task", "hammer-v3")
    assert done.status == 2
    assert "task must be one that" in done.stderr
    done = tiny.trcl("fisher", tiny.finished, "--samples", 4)
    assert done.status == 2
    assert "samples must be >= 8, got 4" in done.stderr
