"""Several seeds of a method: grouped, averaged, paired; and the tables and pictures of coming back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.report.fake_runs import TASKS, interval, make_run
from trcl_policy.commands.show import Report, report
from trcl_policy.config import completed
from trcl_policy.continual.recovery import kaplan_meier
from trcl_policy.continual.statistics import mean_interval
from trcl_policy.report import curves, page, plots
from trcl_policy.report.groups import averaged, group_runs, methods_table, paired_table
from trcl_policy.report.relearning import dips_table, losses_table, probe_table, times_table, transfer_table
from trcl_policy.report.runs import load_runs
from trcl_policy.report.sections import draw_figures, seed_tables, tables_by_section
from trcl_policy.rollout.relearning import relearning, survival_document

NAMES = TASKS[:3]
UPDATES = (0, 10, 20, 50, 100)


def measured(decay, seed):
    """What a run with evaluations inside its tasks has in metrics.json beside its scores."""
    rng = np.random.default_rng(seed)

    def curve(start, bottom, end):
        path = np.interp(UPDATES, [0, 10, 50, 100], [start, bottom, end, end]) + rng.uniform(0, 0.02, 5)
        return dict(zip(UPDATES, path.tolist(), strict=True))

    success = [
        [curve(0.9, decay / 2, decay) if i < k else curve(0.0, 0.4, 0.9) for i in range(k + 1)] for k in range(3)
    ]
    losses = [[{u: 0.02 / (0.05 + v) for u, v in one.items()} for one in row] for row in success]
    scores = [[success[k][i][100] if i <= k else None for i in range(3)] for k in range(3)]
    matrix = [[losses[k][i][100] if i <= k else None for i in range(3)] for k in range(3)]

    def document(table, what):
        return {
            NAMES[i]: {NAMES[k]: {"updates": list(table[k][i]), what: list(table[k][i].values())} for k in range(i, 3)}
            for i in range(3)
        }

    return {
        "scores": scores,
        "intervals": [[None if s is None else interval(min(s, 1)) for s in row] for row in scores],
        "average_final": float(np.mean(scores[-1])),
        "forgetting_old": float(np.mean([scores[i][i] - scores[2][i] for i in range(2)])),
        "libero": {"fwt": 0.5, "nbt": 0.9 - decay, "auc": None},
        "losses": matrix,
        "curves": document(success, "scores"),
        "loss_curves": document(losses, "losses"),
        "recovery": relearning(success, scores, NAMES),
        "loss_recovery": relearning(losses, matrix, NAMES, higher_is_better=False),
    }


def probe(speed):
    steps = [0, 10, 20, 30, 40]
    tasks = {}
    for place, name in enumerate(NAMES[:2]):
        success = [min(0.9, 0.3 + speed * step / 40 + 0.02 * place) for step in steps]
        held = next((s for s, v in zip(steps[:3], success[:3], strict=True) if v >= 0.81), None)
        tasks[name] = {
            "steps": steps,
            "success": success,
            "losses": [0.3 - 0.2 * v for v in success],
            "reference": 0.9,
            "loss_reference": 0.1,
            "held_after": held,
            "loss_held_after": None,
        }
    spells = [(40, False) if c["held_after"] is None else (c["held_after"], True) for c in tasks.values()]
    table = survival_document(spells)
    return {"tasks": tasks, "survival": {"success": table, "loss": None}, "probe": {"steps": 40}}


def make(folder, method, decay, seed, probe_speed=None, steps=100, **fields):
    make_run(folder, method, decay, tasks=NAMES, seed=seed, **{**measured(decay, seed), **fields})
    (folder / "config.yaml").write_text(f"method: {{name: {method}}}\nseed: {seed}\ntraining: {{steps: {steps}}}\n")
    if probe_speed is not None:
        (folder / "recovery.json").write_text(json.dumps(probe(probe_speed)))
    return folder


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return [
        make(folder / f"{method}-{seed}", method, decay, seed, speed)
        for method, decay, speed in (("finetune", 0.3, 0.4), ("trcl", 0.85, 2.0))
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def runs(paths):
    return load_runs(paths)


# ---- groups ----


def test_runs_that_differ_in_their_seed_alone_are_one_group(runs, tmp_path):
    groups = group_runs(runs[::-1])
    assert [(group.label, len(group.runs)) for group in groups] == [("trcl", 3), ("finetune", 3)]
    assert [run.settings["seed"] for run in groups[0].runs] == [0, 1, 2]
    other = load_runs([*(run.path for run in runs), make(tmp_path / "longer", "trcl", 0.9, 0, steps=200)])
    assert [len(group.runs) for group in group_runs(other)] == [3, 3, 1]
    twice = load_runs([runs[0].path, make(tmp_path / "again", "finetune", 0.9, 0)])
    assert [len(group.runs) for group in group_runs(twice)] == [1, 1]


def test_seeds_that_learned_in_another_precision_belong_together(tmp_path):
    folders = [make_run(tmp_path / f"{seed}", "trcl", 0.9, seed=seed) for seed in range(2)]
    for folder, precision in zip(folders, ("bf16", "fp32"), strict=True):
        (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + f"precision: {precision}\n")
    assert [len(group.runs) for group in group_runs(load_runs(folders))] == [2]


def test_a_group_is_the_mean_of_its_seeds_with_t_intervals(runs):
    group = group_runs(runs)[1]
    shown = averaged(group)
    cell = mean_interval([run.scores[2][0] for run in group.runs])
    assert shown.scores[2][0] == cell.mean
    assert shown.intervals[2][0] == [max(0, cell.interval[0]), min(1, cell.interval[1])]
    assert shown.scores[0][1] is None
    final = mean_interval([run.metrics["average_final"] for run in group.runs])
    assert shown.metrics["average_final"] == final.mean
    during = shown.metrics["curves"][NAMES[0]][NAMES[1]]
    assert during["scores"][1] == pytest.approx(
        np.mean([run.metrics["curves"][NAMES[0]][NAMES[1]]["scores"][1] for run in group.runs])
    )
    assert len(shown.metrics["recovery"]["first_passage"]["0.9"]["spells"]) == 9
    assert averaged(group_runs(runs[:1])[0]) is runs[0]


def test_methods_table_has_both_kinds_of_interval(runs):
    rows = methods_table(group_runs(runs)).rows
    final = mean_interval([run.metrics["average_final"] for run in runs[:3]])
    assert rows[0][:4] == ("finetune", "3", f"{final.mean:.2f}", f"{final.interval[0]:.2f} to {final.interval[1]:.2f}")
    assert rows[0][4] != rows[0][3]
    assert rows[0][4].count(" to ") == 1


def test_paired_table_compares_seed_by_seed(runs):
    rows = paired_table(group_runs(runs)).rows
    differences = [
        b.metrics["average_final"] - a.metrics["average_final"] for a, b in zip(runs[:3], runs[3:], strict=True)
    ]
    assert rows[0][:3] == ("trcl: average final", "3", f"{np.mean(differences):+.2f}")
    assert rows[0][4:] == ("0.250", "100 %")
    assert rows[1][0] == "trcl: forgetting (old tasks)"
    assert rows[1][2].startswith("-")


def test_only_shared_seeds_are_paired(runs, tmp_path):
    extra = make(tmp_path / "seed-7", "trcl", 0.85, 7)
    rows = paired_table(
        group_runs(load_runs([*(run.path for run in runs[:2]), runs[3].path, runs[4].path, extra]))
    ).rows
    assert rows[0][1] == "2"


def test_methods_of_different_length_are_not_paired_and_the_report_says_so(runs, tmp_path):
    longer = [make(tmp_path / f"longer-{seed}", "ewc", 0.5, seed, steps=200) for seed in range(2)]
    mixed = [runs[0].path, runs[1].path, *longer]
    with pytest.raises(
        ValueError, match=r"must share tasks and training.steps, got finetune with .* of 100 updates and"
    ) as e:
        paired_table(group_runs(load_runs(mixed)))
    assert "\n" not in str(e.value)
    tables, note = seed_tables(load_runs(mixed))
    assert len(tables) == 1
    figure = plots.average_curve(load_runs(mixed))
    assert note in page.render_page(load_runs(mixed), {"average": ("", figure), "tasks": ("", figure)}, "title")
    assert note.startswith("No comparison seed by seed: runs to pair must share")


def test_runs_of_one_seed_have_no_tables_over_seeds(runs):
    assert seed_tables([runs[0], runs[3]]) == ([], "")


def test_the_page_leads_with_the_methods_and_folds_their_seeds_away(runs):
    def result(shown):
        return page.render_page(shown, draw_figures(shown), "title").partition("<h2>Task by task")[0]

    methods, folded, single = "Methods over their seeds", "<summary>Each of the 6 runs</summary>", "After the whole"
    several = result(runs)
    assert several.index(methods) < several.index(folded) < several.index(single)
    assert several.count("<table>") == 3
    one_each = result([runs[0], runs[3]])
    assert single in one_each
    assert "<details>" not in one_each


# ---- tables of coming back ----


def test_dips_and_times_count_every_pair(runs):
    shown = [averaged(group) for group in group_runs(runs)]
    rows = {row[0]: row[1:] for row in dips_table(shown).rows}
    assert rows["finetune, 3 seeds: success"][:2] == ("9", "9")
    assert rows["finetune, 3 seeds: success"][3] == "0"
    assert rows["trcl, 3 seeds: loss"][0] == "9"
    times = {row[0]: row[1:] for row in times_table(shown).rows}
    spells = [tuple(spell) for run in runs[3:] for spell in run.metrics["recovery"]["first_passage"]["0.9"]["spells"]]
    mean, error = kaplan_meier(spells).restricted_mean(100)
    assert times["trcl, 3 seeds: success, from the switch"][-1] == f"{mean:.4g} +- {error:.3g}"
    assert times["finetune, 3 seeds: success, from the switch"][1] == "0"
    horizons = {row[3] for name, row in times.items() if name.endswith("success, from the bottom")}
    assert len(horizons) == 1  # means compare only within the same updates


def test_losses_transfer_and_probe_have_their_tables(runs):
    losses = runs[0].metrics["losses"]
    assert losses_table(runs).rows[0][1] == f"{losses[2][0]:.3g} (x {losses[2][0] / losses[0][0]:.2f})"
    assert transfer_table(runs).rows[0][1:4] == ("0.50", "0.60", "–")
    cells = probe_table([runs[0], runs[3]]).rows[0]
    assert cells == ("button-press-topdown", "> 40", "> 40", "20", "> 40")


def test_a_seed_without_probe_does_not_hide_those_of_others(runs):
    group = group_runs([replace(runs[0], probe={}), *runs[1:3]])[0]
    shown, whole = averaged(group), averaged(group_runs(runs[:3])[0])
    assert shown.probe_label == "finetune, 2 of 3 seeds"
    assert whole.probe_label == whole.label == "finetune, 3 seeds"
    assert probe_table([shown]).header[1] == "finetune, 2 of 3 seeds: success"
    assert probe_table([shown]).rows[0][1].count("40") == 2
    legends = [curves.probe_curves([shown]), curves.probe_survival_curves([shown])]
    assert all(text.get_text() == shown.probe_label for figure in legends for text in figure.legends[0].get_texts())
    assert averaged(group_runs([replace(run, probe={}) for run in runs[:3]])[0]).probe == {}


def test_forward_transfer_comes_from_a_run_of_tasks_alone(tmp_path):
    trcl, alone = make(tmp_path / "trcl", "trcl", 0.9, 0), make(tmp_path / "alone", "alone", 0.9, 1)
    without, reference = load_runs([trcl])[0], load_runs([trcl, alone])
    assert without.metrics["forward_transfer"] is None
    assert reference[0].metrics["forward_transfer"] == pytest.approx(np.mean(reference[0].metrics["forward_transfers"]))
    assert reference[1].metrics["forward_transfer"] is None
    metrics = json.loads((alone / "metrics.json").read_text())
    metrics["curves"][NAMES[0]][NAMES[0]] = {"updates": [0, 100], "scores": [0.0, 1.0]}
    (alone / "metrics.json").write_text(json.dumps(metrics))
    assert load_runs([trcl, alone])[0].metrics["forward_transfer"] is None


# ---- pictures ----


def test_pictures_of_coming_back_are_there_and_say_what_was_measured(runs):
    figures = draw_figures(runs)
    assert {"retention", "reconvergence", "survival", "losses", "probe", "probe-survival"} <= figures.keys()
    shown = [averaged(group) for group in group_runs(runs)]
    axes = curves.sequence_curves(shown, "curves", "scores", "success").axes[1]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [100, 110, 120, 150, 200, 200, 210, 220, 250, 300])
    np.testing.assert_allclose(axes.lines[0].get_ydata()[:5], shown[0].metrics["curves"][NAMES[1]][NAMES[1]]["scores"])
    table = kaplan_meier([tuple(s) for s in shown[1].metrics["recovery"]["first_passage"]["0.9"]["spells"]])
    line = curves.survival_curves(shown).axes[0].lines[-1]
    assert list(line.get_ydata())[1 : len(table.shares) + 1] == list(table.shares)
    ratio = curves.reconvergence_curves(runs[:1]).axes[0].lines[0].get_ydata()[1]
    found = [
        runs[0].metrics["curves"][NAMES[i]][NAMES[k]]["scores"][1] / runs[0].scores[i][i]
        for i, k in [(0, 1), (0, 2), (1, 2)]
    ]
    assert ratio == pytest.approx(np.mean(found))


def test_runs_measured_at_the_ends_alone_have_no_such_pictures(tmp_path):
    bare = load_runs([make_run(tmp_path / "bare", "trcl", 0.9)])
    names = draw_figures(bare).keys()
    assert not names & {"retention", "reconvergence", "survival", "losses", "probe", "probe-survival"}
    assert not tables_by_section(bare)["Probe"]


def test_a_run_from_before_a_setting_was_made_is_compared_as_what_it_is(tmp_path):
    folders = [make(tmp_path / f"{seed}", "trcl", 0.9, seed) for seed in range(3)]
    for folder, replay in zip(
        folders[1:], ("{name: trcl, replay_draws: 1}", "{name: trcl, replay_draws: 2}"), strict=True
    ):
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("{name: trcl}", replay))
    assert [len(group.runs) for group in group_runs(load_runs(folders))] == [1, 1, 1]
    assert [len(group.runs) for group in group_runs(load_runs(folders, completed))] == [2, 1]
    report(Report(tuple(folders[:2]), tmp_path / "page"))
    assert "2 seeds" in (tmp_path / "page" / "tables.txt").read_text()
    (folders[0] / "config.yaml").write_text("method: {name: trcl, gone: 1}\nseed: 0\n")
    assert load_runs(folders[:1], completed)[0].settings["method"]["gone"] == 1
