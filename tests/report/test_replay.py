"""Drift of replayed samples, drawn from the lines of a run."""

import json

import pytest

from tests.report.fake_runs import make_run
from trcl_policy.report.page import build_report
from trcl_policy.report.replay import by_generation, curve, replay_figure, replay_table
from trcl_policy.report.runs import load_runs


def line(after, task, generation, share, coverage=0.5):
    real = {"share": 0.9, "coverage": 0.95}
    return {"after": after, "task": task, "generation": generation, "share": share, "coverage": coverage, "real": real}


LINES = [line("a", "a", 1, 0.8), line("b", "a", 2, 0.6), line("b", "b", 1, 0.4, 0.3), line("c", "b", 2, 0.2)]


@pytest.fixture
def runs(tmp_path):
    """A run with replayed samples, another with the half of them, and one without any."""
    paths = [make_run(tmp_path / name, name, 0.9) for name in ("trcl", "replay", "finetune")]
    for path, lines in zip(paths, (LINES, LINES[:1]), strict=False):
        (path / "replay.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return paths


def test_lines_are_sorted_by_task_and_generation():
    again = line("d", "a", 1, 0.7)  # a task that came back begins anew, and the later line counts
    found = by_generation([*LINES, again])
    assert {task: sorted(generations) for task, generations in found.items()} == {"a": [1, 2], "b": [1, 2]}
    assert found["a"][1] is again


def test_curve_is_the_mean_over_the_tasks_of_a_generation():
    made, real = curve(LINES)[1]
    assert made == pytest.approx({"share": 0.6, "coverage": 0.4})
    assert real == pytest.approx({"share": 0.9, "coverage": 0.95})
    assert curve(LINES)[2][0] == pytest.approx({"share": 0.4, "coverage": 0.5})


def test_table_has_a_row_for_each_task_and_a_column_for_each_generation(runs):
    table = replay_table(load_runs(runs))
    assert table.header == ("method", "task", "generation 1", "generation 2", "real samples")
    assert table.rows == (
        ("trcl", "a", "0.80 / 0.50", "0.60 / 0.50", "0.90 / 0.95"),
        ("trcl", "b", "0.40 / 0.30", "0.20 / 0.50", "0.90 / 0.95"),
        ("replay", "a", "0.80 / 0.50", "–", "0.90 / 0.95"),
    )


def test_figure_draws_the_curves_and_the_real_samples(runs):
    share, coverage = replay_figure(load_runs(runs)).axes
    assert [entry.get_label() for entry in share.lines] == ["trcl", "replay", "real samples"]
    assert list(share.lines[0].get_ydata()) == pytest.approx([0.6, 0.4])
    assert list(coverage.lines[0].get_ydata()) == pytest.approx([0.4, 0.5])
    assert list(share.lines[2].get_ydata()) == pytest.approx([0.9, 0.9])


def test_report_shows_replayed_samples(runs, tmp_path):
    build_report(runs[:1], tmp_path / "page")
    assert (tmp_path / "page" / "replay.png").exists()
    for name in ("index.html", "tables.txt", "tables.md"):
        assert "0.60 / 0.50" in (tmp_path / "page" / name).read_text()


def test_runs_without_replayed_samples_have_neither_table_nor_figure(runs):
    without = load_runs(runs[2:])
    assert replay_table(without).rows == ()
    assert replay_figure(without) is None
