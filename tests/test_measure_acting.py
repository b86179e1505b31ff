"""Pairs are measured once, kept, and shown; the page is that of the stored results."""

import json
import shutil

import pytest

from tests.scripts import script
from tests.tiny import TASKS, tiny

__all__ = ["tiny"]
acting = script("measure_acting")


@pytest.mark.sim
def test_pairs_are_the_runs_own_rollouts_and_are_not_measured_again(tiny, tmp_path, monkeypatch, capsys):
    run, results = tmp_path / "small" / "finetune" / "seed-0", tmp_path / "acting"
    shutil.copytree(tiny.finished, run, symlinks=True)
    monkeypatch.setattr(acting, "STEPS", (2,))
    monkeypatch.setattr(acting, "LOOKS", (8, 16, 32))  # 16 actions are predicted
    assert acting.main([str(run), "--episodes", "2", "--results", str(results)]) == 0
    path = results / "small-finetune-seed-0.json"
    document = json.loads(path.read_text())
    pairs = [(cell["acting_steps"], cell["n_action_steps"]) for cell in document["cells"]]
    assert pairs == [(2, 8), (2, 16)]
    assert document["scatter"].keys() == {"2"}
    assert 0 < document["scatter"]["2"] < 1
    assert document["tasks"] == list(document["cells"][0]["wins"]) == list(TASKS)

    document["cells"][0]["wins"] = dict.fromkeys(TASKS, 1)
    path.write_text(json.dumps(document))
    monkeypatch.setattr(acting, "STEPS", (1, 2))
    monkeypatch.setattr(acting, "LOOKS", (8,))
    assert acting.main([str(run), "--episodes", "2", "--results", str(results)]) == 0
    after = json.loads(path.read_text())
    assert after["cells"][:2] == document["cells"]
    assert [(cell["acting_steps"], cell["n_action_steps"]) for cell in after["cells"][2:]] == [(1, 8)]
    assert acting.tables(results).splitlines()[-1].startswith(f"| 2 | {after['scatter']['2']:.3f} | 0.500 [")

    assert acting.main([str(run), "--episodes", "3", "--results", str(results)]) == 2
    assert "got other weights or episodes; delete it" in capsys.readouterr().err
    assert json.loads(path.read_text()) == after


def test_the_page_is_that_of_the_stored_results(capsys):
    assert acting.main(["--check"]) == 0, capsys.readouterr().out
