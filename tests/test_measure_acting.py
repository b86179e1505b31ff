"""Pairs are measured once, kept, and shown; the page is that of the stored results."""

import functools
import json
import shutil

import pytest

from tests.scripts import script
from tests.tiny import TASKS, tiny

__all__ = ["tiny"]
acting, tables = script("measure_acting"), script("acting_tables")


@pytest.mark.sim
def test_pairs_are_the_runs_own_rollouts_and_are_not_measured_again(tiny, tmp_path, monkeypatch, capsys):
    run, results = tmp_path / "small" / "finetune" / "seed-0", tmp_path / "acting"
    shutil.copytree(tiny.finished, run, symlinks=True)
    monkeypatch.setattr(acting, "STEPS", (2,))
    monkeypatch.setattr(acting, "LOOKS", (8, 16, 32))  # 16 actions are predicted
    assert acting.main([str(run), "--episodes", "2", "--results", str(results)]) == 0
    path = results / "grid" / "small-finetune-seed-0.json"
    assert capsys.readouterr().out.startswith("**trcl_kfac, seed 0")
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
    rows = tables.grids(results / "grid").splitlines()[-2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 2"]
    assert rows[-1].startswith(f"| 2 | {after['scatter']['2']:.3f} | 0.500 [")

    assert acting.main([str(run), "--episodes", "3", "--results", str(results)]) == 2
    assert "got other weights, episodes or start states; delete it" in capsys.readouterr().err
    assert json.loads(path.read_text()) == after


@pytest.mark.sim
def test_chosen_pairs_are_rolled_out_on_chosen_start_states(tiny, tmp_path, capsys):
    run, results = tmp_path / "small" / "finetune" / "seed-0", tmp_path / "acting"
    shutil.copytree(tiny.finished, run, symlinks=True)
    words = [str(run), "--pairs", "3x8", "--start", "5000000", "--episodes", "1", "--results", str(results)]
    assert acting.main(words) == 0
    document = json.loads((results / "seeds" / "small-finetune-seed-0.json").read_text())
    assert document["start"] == 5000000
    assert [(cell["acting_steps"], cell["n_action_steps"]) for cell in document["cells"]] == [(3, 8)]
    assert document["scatter"].keys() == {"3"}
    assert acting.main([*words[:2], "3x17", *words[3:]]) == 2
    assert "n_action_steps must be in [1, horizon = 16], got 17" in capsys.readouterr().err


def keep(folder, method, seed, two, eight, recall="all", **trained):
    """A stored measurement of two tasks, whose first is solved ``two`` of ten times with two sampler steps."""
    cells = [
        {"acting_steps": steps, "n_action_steps": 4, "wins": {"a-v3": wins, "b-v3": 10}}
        for steps, wins in ((2, two), (8, eight))
    ]
    trained = {"method": method, "seed": seed, "recall": recall, **trained}
    document = {"trained": trained, "tasks": ["a-v3", "b-v3"], "episodes": 10, "cells": cells}
    (folder / f"{method}-{seed}-{trained.get('policy_fraction')}.json").write_text(json.dumps(document))


def test_methods_are_paired_with_joint_training_and_with_themselves(tmp_path):
    store = functools.partial(keep, tmp_path)
    for seed, (joint, dark) in enumerate([(10, 8), (9, 8), (8, 7)]):
        store("joint", seed, joint, joint - 1)
        store("replay_dark", seed, dark, dark, "use")
    store("replay_dark", 3, 0, 0, "use")  # has no partner
    store("er", 0, 6, 6)
    store("er", 1, 6, 6)
    whole, rivals, each = tables.seeds_tables(tmp_path).split("\n\n**T")
    ends = ["| joint | 0.90 | 1.00 |", "| er | 0.60 | 1.00 |", "| replay_dark, acting | 0.57 | 1.00 |"]
    assert each.splitlines()[-3:] == ends
    header, _, row = rivals.splitlines()[-3:]
    assert header == "| rival | replay_dark, acting |"
    assert row == "| er | +10.0 (+10.0 to +10.0) |"
    title, _, _, _, *rows = whole.splitlines()
    assert title == "**a, b; 10 rollouts of each**"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    named = [
        (method, n, seeds)
        for method, seeds in (("joint", "3"), ("er", "2"), ("replay_dark, acting", "4"))
        for n in "28"
    ]
    assert [tuple(row[:3]) for row in cells] == named
    assert cells[0][3:] == ["0.950 (0.826 to 1.000)", "–", "+5.0 (+5.0 to +5.0)"]
    assert cells[4][4:] == ["-6.7 (-13.8 to +0.5)", "+0.0 (+0.0 to +0.0)"]
    assert cells[5][5] == "–"


def test_drilled_runs_are_held_against_themselves_and_drilled_joint_training(tmp_path):
    for seed in range(2):
        keep(tmp_path, "joint", seed, 8, 8)
        keep(tmp_path, "joint", seed, 9, 9, policy_fraction=0.75)
        keep(tmp_path, "er", seed, 5, 5, policy_fraction=0.5)
        keep(tmp_path, "trcl", seed, 6, 6, "use")
        keep(tmp_path, "trcl", seed, 8, 8, "use", policy_fraction=0.75)
    whole, drilled, rivals, each = tables.seeds_tables(tmp_path).split("\n\n**T")
    cells = {row.split("|")[1].strip(): row.split("|")[5].strip() for row in whole.splitlines()[4:]}
    assert cells == {
        "joint": "–",
        "joint, drilled": "–",
        "er": "-15.0 (-15.0 to -15.0)",
        "trcl, acting": "-10.0 (-10.0 to -10.0)",
        "trcl, acting, drilled": "-5.0 (-5.0 to -5.0)",
    }
    rows = ["| joint | +5.0 (+5.0 to +5.0) |", "| trcl, acting | +10.0 (+10.0 to +10.0) |"]
    assert drilled.splitlines()[-2:] == rows
    assert rivals.splitlines()[-3:] == ["| rival | trcl, acting |", "| --- | ---: |", "| er | +5.0 (+5.0 to +5.0) |"]
    assert len(each.splitlines()) == 4 + 5


def test_the_picture_shows_what_is_stored():
    cells = [
        {"acting_steps": n, "n_action_steps": looks, "wins": {"a": wins, "b": 10}}
        for n, looks, wins in ((8, 4, 2), (2, 4, 6), (2, 2, 10))
    ]
    document = {"cells": cells, "episodes": 10, "scatter": {"2": 0.03, "8": 0.08}}
    figure = acting.acting_figure({"joint": document}, 4)
    success, scatter = (panel.lines[0] for panel in figure.axes)
    assert [success.get_xdata().tolist(), success.get_ydata().tolist()] == [[2, 8], [0.8, 0.6]]
    assert scatter.get_ydata().tolist() == [0.03, 0.08]
    assert acting.acting_figure({}, 4) is None


def test_the_page_is_that_of_the_stored_results(capsys):
    assert acting.main(["--check"]) == 0, capsys.readouterr().out
