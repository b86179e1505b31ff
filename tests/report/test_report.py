import base64
import html.parser
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.report.fake_runs import TASKS, make_run
from trcl_policy.report import page, plots
from trcl_policy.report.page import build_report, summary_text
from trcl_policy.report.runs import load_runs, short_name
from trcl_policy.report.sections import tables_by_section
from trcl_policy.report.tables import (
    Table,
    cost_table,
    duration,
    final_table,
    number,
    size,
    summary_table,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder / "a", "finetune", 0.45),
        make_run(folder / "b", "trcl", 0.99, videos=2, seed=1),
        make_run(folder / "c", "joint", 1.0, joint=True, seed=2),
    ]


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    return build_report(runs, tmp_path_factory.mktemp("report") / "deep", title="A <b> & c")


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


class Page(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that its elements close."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.references, self.open, self.text, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "poster", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


# ---- the page ----


def test_page_loads_nothing_from_anywhere_and_is_well_formed(report):
    text = report.page.read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert all(reference.startswith(("data:", "#")) for reference in parsed.references)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "script" not in parsed.tags


def test_page_says_every_result_and_escapes_what_it_quotes(report, runs):
    text = report.page.read_text()
    assert "A &lt;b&gt; &amp; c" in text
    assert "cpu &lt;&amp;&gt;" in text
    for run in runs:
        metrics = metrics_of(run)
        assert f'<span class="big">{metrics["average_final"]:.2f}</span>' in text
        low, high = metrics["average_final_interval"]
        assert f"<td>{low:.2f} to {high:.2f}</td>" in text
    assert "mujoco 3.3.0" in text
    assert "name: trcl" in text


def test_pictures_take_the_pages_ink_and_files_keep_their_own(report):
    text = report.page.read_text()
    assert "currentColor" in text
    assert plots.INK not in text.split("</style>", 1)[1]
    svg = next(path for path in report.figures if path.name == "average.svg").read_text()
    assert plots.INK in svg


def test_report_files_are_named_and_there(report):
    names = {path.name for path in report.figures}
    assert {
        "average.png",
        "tasks.svg",
        "matrix-finetune.png",
        "matrix-trcl.png",
        "matrix-joint.png",
        "loss.png",
    } <= names
    assert all(path.stat().st_size > 1000 for path in report.figures)
    assert set(report.page.parent.iterdir()) == {report.page, report.text, report.markdown, *report.figures}


def test_small_videos_are_embedded_and_large_ones_named(runs, monkeypatch):
    loaded = load_runs(runs)
    whole = base64.b64encode(b"\0" * 1000).decode()
    assert page._videos(loaded).count(whole) == 2
    monkeypatch.setattr(page, "PAGE_LIMIT", 1500)
    text = page._videos(loaded)
    assert text.count(whole) == 1
    assert "1 kB, too large to be part of this page; the file is <code>b/videos/clip-1.mp4</code>" in text
    monkeypatch.setattr(page, "VIDEO_LIMIT", 999)
    assert whole not in page._videos(loaded)


def test_same_runs_give_the_same_page(runs, report):
    again = page.render_page(load_runs(runs), page.draw_figures(load_runs(runs)), "A <b> & c")
    assert again == report.page.read_text()


# ---- tables ----


def test_tables_hold_the_metrics_as_they_are(runs):
    loaded = load_runs(runs)
    for row, run in zip(summary_table(loaded).rows, runs, strict=True):
        metrics = metrics_of(run)
        assert row[:2] == (metrics["method"], f"{metrics['average_final']:.2f}")
        drops = [metrics["forgetting"], metrics["forgetting_old"]]
        assert row[3:5] == tuple("–" if d is None else number(d, signed=True) for d in drops)
    final = final_table(loaded)
    assert [row[0] for row in final.rows] == [task.removesuffix("-v3") for task in TASKS]
    assert final.rows[1][1].startswith(f"{metrics_of(runs[0])['scores'][-1][1]:.2f} (")
    assert cost_table(loaded).rows[0] == ("training seconds", "6 min 40 s", "6 min 42 s", "6 min 42 s")
    titles = [table.title.split()[0] for part in tables_by_section(loaded).values() for table in part]
    assert titles == ["After", "Final", "Recovery", "Cost"]


def test_text_and_markdown_align_and_escape():
    table = Table("T", ("method", "x"), (("a|b", "1.00"), ("longer name", "–")))
    assert table.text().splitlines() == [
        "T",
        "method          x",
        "-----------  ----",
        "a|b          1.00",
        "longer name     –",
    ]
    assert table.markdown().splitlines()[2:] == [
        "| method | x |",
        "| --- | ---: |",
        "| a\\|b | 1.00 |",
        "| longer name | – |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.005, "0.01"), (-0.001, "0.00"), (0.931, "0.93"), (123.4, "123")],
)
def test_numbers_read_as_people_write_them(value, text):
    assert number(value) == text


def test_durations_and_sizes():
    assert [duration(s) for s in (0.44, 59.9, 200, 7500)] == ["0.4 s", "59.9 s", "3 min 20 s", "2 h 05 min"]
    assert [size(b) for b in (12, 1500, 2.5e6, 7e9)] == ["12 B", "1.5 kB", "2.5 MB", "7 GB"]


def test_summary_for_the_terminal_is_the_summary_table(runs, report):
    assert summary_text(runs) == report.summary == summary_table(load_runs(runs)).text()


# ---- plots ----


def test_curves_draw_the_scores_and_their_bands(runs):
    loaded = load_runs(runs)
    axes = plots.average_curve(loaded).axes[0]
    scores = metrics_of(runs[0])["scores"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [np.mean(row[: k + 1]) for k, row in enumerate(scores)])
    joint = next(line for line in axes.lines if line.get_label() == "joint")
    assert joint.get_xdata() == [5]
    panel = plots.task_curves(loaded).axes[1]
    np.testing.assert_allclose(panel.lines[0].get_xdata(), [2, 3, 4, 5])
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [scores[k][1] for k in range(1, 5)])
    bounds = panel.collections[0].get_paths()[0].vertices
    low, high = np.array([metrics_of(runs[0])["intervals"][k][1] for k in range(1, 5)]).T
    assert bounds[:, 1].min() == pytest.approx(low.min())
    assert bounds[:, 1].max() == pytest.approx(high.max())


def test_matrix_shows_each_measured_cell_and_no_other(runs):
    texts = [text.get_text() for text in plots.score_matrix(load_runs(runs)[2]).axes[0].texts]
    assert texts == [f"{score:.2f}" for score in metrics_of(runs[2])["scores"][-1]]


@pytest.mark.parametrize("per_task", [True, False])
def test_loss_counts_updates_over_the_whole_sequence(per_task):
    steps = [0, 10, 20, 0, 10, 20] if per_task else [0, 10, 20, 20, 30, 40]
    log = [{"step": s, "task": t, "loss_new": n + 1.0} for n, (s, t) in enumerate(zip(steps, "xxxyyy", strict=True))]
    found, values, switches = plots._logged([*log, {"event": "note"}], "loss_new")
    assert found.tolist() == [0, 10, 20, 20, 30, 40]
    assert values.tolist() == [1, 2, 3, 4, 5, 6]
    assert switches == [20]
    for record in log[3:]:
        record["multiplier"] = 2.0
    assert plots._logged(log, "multiplier")[0].tolist() == [20, 30, 40]


def test_a_multiplier_is_drawn_where_a_method_follows_a_target(runs):
    plain, watched, other = load_runs(runs)[:3]
    assert plots.multiplier_curves([plain, watched]) is None
    log = [{"step": s, "task": t} for t in "xy" for s in (10, 20, 30)]
    for record, mu in zip(log[3:], (1.0, 3.0, 2.0), strict=True):
        record |= {"multiplier": mu, "share_of_target": mu / 4}
    figure = plots.multiplier_curves([plain, replace(watched, log=log), other])
    upper, lower = figure.axes
    curve, switch = upper.lines
    assert curve.get_label() == watched.label
    assert curve.get_xdata().tolist() == [40, 50, 60]
    assert curve.get_ydata().tolist() == [1, 3, 2]
    assert switch.get_xdata() == [30, 30]
    assert lower.lines[0].get_ydata().tolist() == [0.25, 0.75, 0.5]


def test_eight_runs_differ_in_colour_and_marker():
    looks = [plots.style_of(number) for number in range(16)]
    assert len({look["color"] for look in looks[:8]}) == len({look["marker"] for look in looks[:8]}) == 8
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 16


def test_a_long_legend_leaves_room_for_the_curves(runs):
    run = load_runs(runs)[0]
    few, many = (plots.average_curve([replace(run, label=f"run {n}") for n in range(count)]) for count in (8, 40))
    for figure in (few, many):
        plots.settle(figure)
        legend = figure.axes[0].get_legend().get_window_extent()
        assert 0 <= legend.y0 < legend.y1 <= figure.bbox.height
    assert few.get_figheight() == 3.8


# ---- unusual runs ----


def test_runs_of_one_method_are_told_apart_by_their_folder(tmp_path):
    paths = [make_run(tmp_path / name, "trcl", 0.9) for name in ("seed-0", "seed-1", "x/seed-1")]
    assert [run.label for run in load_runs(paths)] == ["trcl (seed-0)", "trcl (seed-1)", "trcl (seed-1) #2"]


def test_tasks_are_called_without_their_version_and_later_visits_are_numbered():
    names = ("hammer-v3", "hammer-v3#2", "peg-v-side-v3#12", "cats", "two-vats")
    assert [short_name(name) for name in names] == ["hammer", "hammer (2)", "peg-v-side (12)", "cats", "two-vats"]


def test_bare_metrics_repeated_tasks_and_distances_make_a_report(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    scores = [[31.5, None], [60.25, None]]
    (bare / "metrics.json").write_text(
        json.dumps({"tasks": ["cats", "cats"], "method": "er", "score": "fid", "scores": scores})
    )
    report = build_report([bare], tmp_path / "out")
    assert "cats (2)" in report.text.read_text()
    assert "60.2" in report.text.read_text()
    assert "<video" not in report.page.read_text()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (None, r"run must have a metrics.json, got .* without one"),
        ("{", r"metrics.json must be JSON, got"),
        ("[]", r"metrics.json must hold tasks, method and scores, got none called tasks, method, scores"),
        ({"scores": None}, r"scores in .* must be 5 x 5"),
        ({"scores": [[1, 2]]}, r"scores in .* must be 5 x 5, one row per task, got rows of length \[2\]"),
        ({"scores": [["x"] * 5] * 5}, r"scores in .* must be numbers or null"),
        ({"tasks": [], "scores": []}, r"tasks in .* must name at least one task"),
    ],
)
def test_damaged_run_is_one_line_and_writes_nothing(tmp_path, change, line):
    run = make_run(tmp_path / "run", "trcl", 0.9)
    file = run / "metrics.json"
    if change is None:
        file.unlink()
    else:
        file.write_text(change if isinstance(change, str) else json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=line) as caught:
        build_report([run], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_missing_run_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"run must be a run directory, got .*nope, which is not there"):
        build_report([tmp_path / "nope"], tmp_path / "out")
    with pytest.raises(ValueError, match="runs must name at least one run directory, got none"):
        build_report([], tmp_path / "out")
