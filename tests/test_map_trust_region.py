"""docs/map.md is that of the stored cells; the map's numbers follow from made-up cells by known formulas."""

import json
import math

import pytest

from tests.scripts import FOLDER, script
from trcl_policy.config import load_config

mapping, page = script("map_trust_region"), script("map_page")
ROOT = FOLDER.parent


def test_the_page_is_that_of_the_stored_cells(capsys):
    assert mapping.check(ROOT / "results" / "map", ROOT / "docs" / "map.md") == 0, capsys.readouterr().out


def entry(final, loss, name="replay"):
    return {"name": name, "weight": 1.0, "average_final": final, "old_log_loss": math.log(loss), "seconds": 36.0}


def cell(budget, gains, tasks=4, updates=300):
    """A cell whose trust region adds ``gains[seed]`` to plain success, nothing to distilled, and halves every loss."""
    seeds = range(len(gains))
    runs = {
        "plain": {str(s): entry(0.5 + 0.1 * s, 0.2) for s in seeds},
        "plain_trust": {str(s): entry(0.5 + 0.1 * s + gains[s], 0.1, "trcl_diag_plain") for s in seeds},
        "distilled": {str(s): entry(0.9, 0.2) for s in seeds},
        "distilled_trust": {str(s): entry(0.9, 0.1, "trcl_diag") for s in seeds},
    }
    return {"cell": {"budget": budget, "updates": updates, "tasks": tasks, "width": 64}, "runs": runs}


CELLS = {
    "a": cell("starved", [0.1, 0.2, 0.3]),
    "b": cell("ample", [0.0, 0.01, -0.01]),
    "c": cell("starved", [0.2] * 3, tasks=8),
}


def test_differences_are_paired_by_seed_in_points_with_a_t_interval():
    found = page.difference(CELLS["a"], "plain", "success")
    reach = 4.3027 * 10 / math.sqrt(3)
    assert found.mean == pytest.approx(20.0)
    assert found.interval == pytest.approx((20 - reach, 20 + reach), abs=1e-3)
    assert page.difference(CELLS["a"], "plain", "loss").mean == pytest.approx(-100 * math.log(2))
    short = cell("starved", [0.1, 0.2])
    del short["runs"]["plain"]["1"]
    assert page.difference_by_seed(short, "plain", "success") == pytest.approx({0: 10.0})


def test_cells_are_counted_by_the_side_of_their_interval():
    text = page.make_blocks(CELLS)["summary"]
    assert "On plain replay, by final success: helps in 1 of 3 cells, hurts in 0, undecided in 2." in text
    assert "On plain replay, by held-out loss of old tasks: helps in 3 of 3 cells, hurts in 0, undecided in 0." in text
    assert "On distilled replay, by final success: helps in 0 of 3 cells, hurts in 0, undecided in 3." in text
    assert "3 cells, 3 seeds; `trcl_diag_plain` at weight 1, `trcl_diag` at weight 1; 0.4 hours of one core." in text
    worse = {"a": cell("starved", [-0.2] * 3)}
    assert "by final success: helps in 0 of 1 cells, hurts in 1" in page.make_blocks(worse)["summary"]


def test_a_side_of_the_grid_is_averaged_over_its_cells_for_each_seed_first():
    rows = {row[0]: row for row in page.sides_table(CELLS).rows}
    means = [(0.1 + 0.2) / 2, 0.2, (0.3 + 0.2) / 2]
    reach = 4.3027 * 100 * 0.05 / math.sqrt(3)
    assert rows["budget starved"][:3] == (
        "budget starved",
        "2",
        f"{100 * sum(means) / 3:+.1f} ({20 - reach:+.1f} to {20 + reach:+.1f})",
    )
    assert rows["tasks 8"][1:3] == ("1", "+20.0 (+20.0 to +20.0)")


def test_the_figure_has_a_panel_for_each_kind_and_measure():
    figure = page.map_figure(CELLS)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title().split(":")[0] for axes in panels] == ["plain", "distilled"] * 2
    shown = {text.get_text() for text in panels[0].texts}
    assert {"+20.0*", "+20.0", "+0.0"} <= shown


def test_every_cell_is_a_valid_configuration_and_its_budget_is_met():
    methods = mapping.methods_of("trcl_diag")
    jobs = mapping.make_jobs(mapping.GRID, methods, 1, ROOT / "nowhere", 0.5)
    assert len({job.folder for job in jobs}) == len(jobs) == 4 * len(mapping.GRID)
    for job in jobs:
        pairs = [word.partition("=") for word in job.settings]
        config = load_config(job.config, {key: json.loads(v) if v[0] in '["0123456789' else v for key, _, v in pairs})
        place = mapping.Cell.named(mapping.cell_of(job))
        samples, count = mapping.BUDGETS[place.budget]
        assert config.method.replay_samples == samples
        assert round(config.training.batch_size * config.method.replay_ratio) == count
        assert len(config.tasks) == place.tasks
        assert config.method.name == methods[job.method]
        assert config.method.weight == (0.5 if job.method.endswith("trust") else 1.0)


def test_the_default_grid_fits_a_few_hours_of_two_cores():
    seconds = sum(cell.rough_seconds() for cell in mapping.GRID) * 4 * 3
    assert seconds / 2 < 4 * 3600


def test_cells_are_chosen_by_the_ends_of_their_names():
    assert mapping.chosen_cells("all") == mapping.GRID
    assert {cell.width for cell in mapping.chosen_cells("w64")} == {64}
    found = mapping.chosen_cells("starved-1200x8-w128, 300x4-w64")
    assert [cell.name for cell in found] == [
        "starved-300x4-w64", "starved-1200x8-w128", "scarce-300x4-w64", "ample-300x4-w64",
    ]  # fmt: skip


def test_other_weights_are_not_mixed_into_a_cell(tmp_path):
    (job,) = mapping.make_jobs(mapping.SMOKE, {"plain_trust": "trcl_diag_plain"}, 1, tmp_path / "runs", 2.0)
    assert not mapping.is_stored(tmp_path, job)
    made = {"cell": vars(mapping.SMOKE[0]), "runs": {"plain_trust": {"0": entry(0.5, 0.1, "trcl_diag_plain")}}}
    (tmp_path / f"{mapping.SMOKE[0].name}.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match="name another --results"):
        mapping.is_stored(tmp_path, job)
    (same,) = mapping.make_jobs(mapping.SMOKE, {"plain_trust": "trcl_diag_plain"}, 1, tmp_path / "runs", 1.0)
    assert mapping.is_stored(tmp_path, same)


@pytest.mark.parametrize("words", [["--form", "trcl_dual"], ["--cells", "w65"], ["--seeds", "-1"], ["--weight", "-1"]])
def test_mistakes_are_one_clear_line(words, capsys):
    assert mapping.main([*words, "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
