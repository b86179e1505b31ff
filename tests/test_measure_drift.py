"""Drift is told against each task's own model, and only of runs that keep predictions."""

import math

import pytest
import torch

from tests.scripts import script
from tests.tiny import tiny
from trcl_policy.continual.params import rows
from trcl_policy.folder import RunFolder
from trcl_policy.policy.controller import load_policy

__all__ = ["tiny"]
drift = script("measure_drift")
pytestmark = pytest.mark.sim


def test_drift_is_the_squared_difference_from_the_tasks_own_model(tiny, tmp_path, capsys):
    more = ("--method.name", "replay_dark", "--method.replay_recall", "use", "--method.replay_draws", 8)
    made = tiny.trcl("train", tiny.config, "--out", tmp_path / "run", *more, "--training.steps=12")
    assert made.status == 0, made.stderr
    table = drift.drift_table(RunFolder(tmp_path / "run"))
    assert [row[0] for row in table.rows] == ["faucet-close-v3", "window-close-v3", "mean"]
    kept = drift.kept_pool(RunFolder(tmp_path / "run").load_state())
    own, last = (load_policy(tmp_path / "run" / "checkpoints" / name) for name in ("00", "last"))
    first = rows(kept.samples, (kept.origin == 0).nonzero().squeeze(1))
    assert len(first["level"]) == 8 * 64
    first = rows(first, (first["level"][:, 1] > 75).nonzero().squeeze(1))
    with torch.no_grad():
        apart = (own.model.predict(own.params, first) - last.model.predict(last.params, first)).double()
    wanted = 1000 * apart[:, own.model.parts["observation"] :].square().mean()
    assert math.isclose(float(table.rows[0][1]), float(wanted), abs_tol=0.02)
    assert float(wanted) > 0.1
    assert drift.main([str(tmp_path / "run")]) == 0
    assert "window-close-v3" in capsys.readouterr().out


def test_runs_without_kept_predictions_are_refused_in_a_line(tiny, tmp_path, capsys):
    assert drift.main([str(tiny.finished)]) == 2
    assert "run must keep windows with predictions (replay_dark, trcl_fixed, trcl), got" in capsys.readouterr().err
    assert drift.main([str(tmp_path)]) == 2
    assert "run must" in capsys.readouterr().err
