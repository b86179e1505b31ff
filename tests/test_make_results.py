"""docs/results.md is that of the stored results, and its tables follow from made-up ones by known formulas."""

import math
import shutil
import subprocess
import sys

import pytest

from tests.fake_results import document, probe, put, triangle
from tests.scripts import FOLDER, script
from trcl_policy.report.tables import NONE, Table

make_results, tables, published = (script(name) for name in ("make_results", "results_tables", "published_tables"))
figures, pages, stored = (script(name) for name in ("results_figures", "pages", "stored"))
ROOT = FOLDER.parent


def test_the_page_and_its_figures_are_those_of_the_stored_results():
    words = [sys.executable, str(FOLDER / "make_results.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def falling(learned, finals, **fields):
    """Results by seed of three tasks that were learned at ``learned`` and end at ``finals[seed]``."""
    return {seed: document(triangle([learned] * 3, final), seed=seed, **fields) for seed, final in enumerate(finals)}


FOUND = {
    "replay": falling(0.9, [[0.6, 0.7, 0.9], [0.5, 0.6, 0.9], [0.4, 0.5, 0.9]]),
    "trcl": falling(0.9, [[0.8, 0.8, 0.9], [0.7, 0.7, 0.9], [0.6, 0.6, 0.9]]),
    "trcl_diag": falling(0.9, [[0.7, 0.7, 0.9]]),
}


def cells(table, first):
    row = next(row for row in table.rows if row[0] == first)
    return dict(zip(table.header, row, strict=True)) if len(set(table.header)) == len(row) else row


def test_the_precision_that_runs_learned_in_is_told():
    def learned_in(*precisions):
        return {seed: {"config": {"precision": precision}} for seed, precision in enumerate(precisions)}

    assert make_results.precisions({"a": learned_in("bf16", "bf16")}) == "learned in bf16"
    mixed = {"a": learned_in("bf16", "bf16"), "b": learned_in("bf16", "fp32", "fp32"), "c": learned_in("fp32", "bf16")}
    assert make_results.precisions(mixed) == "learned in bf16, but b (seeds 1, 2) in fp32, c (seed 0) in fp32"


def test_methods_have_means_and_t_intervals_over_seeds():
    table = tables.methods_table(FOUND)
    assert [row[0] for row in table.rows] == ["replay", "trcl", "trcl_diag"]
    finals = [2.2 / 3, 2.0 / 3, 1.8 / 3]
    reach = 4.3027 * (0.2 / 3) / math.sqrt(3)  # t of 95 % and two degrees; the finals are .2/3 apart
    row = table.rows[0]
    assert row[:5] == ("replay", "replay weight 1", "3", "0.90", f"{sum(finals) / 3:.2f}")
    assert row[5] == f"{2 / 3 - reach:.2f} to {2 / 3 + reach:.2f}"
    assert row[6] == "+0.23"  # mean over all three tasks: (.35 * 2 + 0) / 3
    assert row[7] == "+0.35"
    assert table.rows[2][5] == "(0.64 to 0.84)"  # one seed: over its episodes, here 46 of 60


def test_the_knob_column_shows_each_value_that_was_used():
    changed = {0: FOUND["trcl"][0], 1: {**FOUND["trcl"][1], "config": {"method": {"rise": 0.05}}}}
    rows = tables.methods_table({"trcl": changed, "joint": FOUND["replay"]}).rows
    assert [row[1] for row in rows] == ["–", "rise 0.05 and rise 0.1"]


def test_pairs_are_differences_by_seed_and_say_who_is_ahead():
    rows = tables.paired_table(FOUND, "trcl").rows
    final, forgot = (row for row in rows if row[0].startswith("replay: "))
    assert final[1:3] == ("3", "+0.10")
    assert final[3] == "0.10 to 0.10"
    assert final[4:] == ("0.250", "trcl")
    assert forgot[2] == "-0.15"
    assert forgot[5] == "trcl"
    assert not any(row[0].startswith("trcl_diag") for row in rows)  # one common seed makes no pair


@pytest.mark.parametrize(
    ("bounds", "sign", "who"),
    [
        ((0.1, 0.2), 1, "a"),
        ((0.1, 0.2), -1, "b"),
        ((-0.2, -0.1), -1, "a"),
        ((-0.1, 0.2), 1, "undecided"),
        (None, 1, "undecided"),
    ],
)
def test_verdicts_follow_the_side_of_the_interval(bounds, sign, who):
    assert tables.verdict(bounds, sign, "a", "b") == who


def test_smaller_distances_are_better():
    made = {name: falling(0.9, [[0.6, 0.7, 0.9], [0.5, 0.6, 0.9]], score="fid") for name in ("replay", "trcl")}
    for entry in made["trcl"].values():
        entry["metrics"]["average_final"] -= 0.1
    (final,) = [row for row in tables.paired_table(made, "trcl").rows if row[0] == "replay: average final"]
    assert final[5] == "trcl"
    assert tables.best_form({**made, "trcl_ball": made["replay"]}) == "trcl"


def test_one_lucky_seed_makes_no_best_form():
    lucky = falling(0.9, [[0.9, 0.9, 0.9]])
    assert tables.best_form({**FOUND, "trcl_diag": lucky}) == "trcl"
    assert tables.best_form({"trcl": {0: FOUND["trcl"][0]}, "trcl_diag": lucky}) == "trcl_diag"
    assert tables.best_form({"replay": FOUND["replay"]}) is None


def test_a_task_that_never_comes_back_counts_the_length_of_the_probe():
    made = document(triangle([0.9] * 3, [0.5] * 3), probe=probe(10, None))
    assert tables.probe_time(made) == 55.0
    assert tables.probe_loss_time(made) == 10.0
    assert tables.probe_time(document(triangle([0.9] * 3, [0.5] * 3), probe=probe(10, reference=None))) is None
    assert tables.probe_time(document(triangle([0.9] * 3, [0.5] * 3))) is None


def test_rise_of_old_losses_is_a_mean_of_logs():
    losses = [[0.1, None, None], [0.2, 0.1, None], [0.4, 0.1, 0.3]]
    assert tables.old_loss(document(triangle([1.0] * 3, [1.0] * 3), losses)) == pytest.approx(math.log(4) / 2)


def test_ours_stand_beside_the_published_in_percent_with_standard_errors():
    known = {"replay": {"imagenet500": [[53.4, 6.0], [18.2, 4.6]], "cw10": [[85.3, 2.0], [8.2, 2.0]]}}
    table = published.published_table(known, {"cw10-small": FOUND})
    error = 100 * (0.2 / 3) / math.sqrt(3)
    fall = 100 * (0.2 / 3) / math.sqrt(3)
    assert table.rows[0] == (
        "replay",
        "53.4 ± 6.0 / 18.2 ± 4.6",
        "85.3 ± 2.0 / 8.2 ± 2.0",
        f"66.7 ± {error:.1f} / 23.3 ± {fall:.1f} (3)",
    )
    assert [row[0] for row in table.rows] == ["replay", "trcl", "joint"]  # the best form, and the bound


def test_published_file_holds_the_paper_s_six_methods_and_nine_switches():
    known = stored.read_json(ROOT / "results" / "published.json")
    assert list(known["final"]) == list(known["reconvergence"]) == [
        "finetune", "ewc_rank1", "replay", "ftml", "vrmcl", "trcl_rank1",
    ]  # fmt: skip
    assert {len(times) for times in known["reconvergence"].values()} == {9}
    assert known["final"]["trcl_rank1"]["cw10"] == [[88.3, 0.4], [4.4, 0.9]]
    assert known["final"]["vrmcl"]["imagenet500"] == [[142.2, 8.5], [96.6, 8.4]]


def test_time_of_the_first_task_is_the_median_and_never_is_no_number():
    first, *later = ("hammer-v3", "push-wall-v3", "faucet-close-v3")

    def run(*times):
        known = {first: {name: {"0.9": steps} for name, steps in zip(later, times, strict=True)}}
        return document(triangle([0.9] * 3, [0.5] * 3), reconvergence=known)

    seeds = {0: run(10, None), 1: run(30, None), 2: run(None, 5)}
    assert published.first_task_times(seeds) == [30.0, None]
    table = published.reconvergence_table({"trcl": [2, None]}, {"trcl": seeds})
    assert table.rows == (("trcl, published", "2", "never"), ("trcl, ours (3)", "30", "never"))


def test_curves_after_a_switch_are_shares_of_the_first_score():
    curves = {
        "hammer-v3": {
            "push-wall-v3": {"updates": [0, 5, 10], "scores": [0.4, 0.2, 0.8]},
            "faucet-close-v3": {"updates": [0, 5], "scores": [0.4, 0.4]},  # its ends alone
        },
    }
    run = figures.mean_run("trcl", {0: document(triangle([0.8] * 3, [0.5] * 3), curves=curves)})
    assert figures.after_switch(run, 0) == {0: 0.5, 5: 0.25, 10: 1.0}
    assert figures.after_switch(run, 1) == {}


@pytest.fixture
def site(tmp_path):
    """A page and results of its own."""
    (tmp_path / "docs" / "images").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "results.md", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    made = {(name, seed): content for name, seeds in FOUND.items() for seed, content in seeds.items()}
    put(tmp_path / "results", "cw10-small", made)
    shutil.copy(ROOT / "results" / "published.json", tmp_path / "results")
    pages = {"--page": tmp_path / "docs" / "results.md", "--readme": tmp_path / "README.md"}
    return tmp_path, ["--results", str(tmp_path / "results"), *(str(word) for pair in pages.items() for word in pair)]


def test_made_pages_pass_their_check_and_changed_results_fail_it(site, capsys):
    folder, words = site
    assert make_results.main(words) == 0
    assert make_results.main([*words, "--check"]) == 0
    text = (folder / "docs" / "results.md").read_text()
    assert "| trcl | rise 0.1 | 3 | 0.90 | 0.77 |" in text
    assert "| trcl | rise 0.1 | 3 | 0.90 | 0.77 |" in (folder / "README.md").read_text()
    assert "Intervals are 95 %" in text  # what people wrote stays
    report = (folder / "docs" / "comparison.html").read_text()
    assert all(f'<th scope="row">replay, seed {seed}</th>' in report for seed in range(3))
    assert "trcl_diag, seed 0: success of each task" in report
    made = sorted(path.name for path in (folder / "docs" / "images").iterdir())
    assert made == [f"results-cw10-small-{name}.png" for name in ("average", "claims", "tasks")]
    put(folder / "results", "cw10-small", {("trcl", 0): document(triangle([0.9] * 3, [0.1] * 3))})
    (folder / "docs" / "images" / "results-old-average.png").write_bytes(b"")
    capsys.readouterr()
    assert make_results.main([*words, "--check"]) == 1
    said = capsys.readouterr().out
    assert "README.md is not that of the stored results" in said
    assert "results.md is not that of the stored results" in said
    assert "comparison.html was made from other results" in said
    assert "results-cw10-small-tasks.png was drawn from other results" in said
    assert "results-old-average.png belongs to no stored result" in said


def test_a_setting_is_told_against_the_plain_one_and_shows_only_what_it_changes(site):
    folder, words = site
    made = {("trcl", seed): document(triangle([0.9] * 3, [0.9] * 3), seed=seed) for seed in range(3)}
    put(folder / "results", "cw10-small-acting", made)
    assert make_results.main(words) == 0
    text = (folder / "docs" / "results.md").read_text()
    head, _, told = text.partition("### cw10-small-acting")
    assert "**Claims on cw10-small-acting**" in head
    told = told.partition("###")[0]
    assert "runs are those of [cw10-small](#cw10-small)" in told
    assert "| trcl: average final | 3 | +0.13 | -0.03 to 0.30 |" in told  # .07, .13 and .20 more: mean and t interval
    assert "| replay | replay weight" not in told
    assert not list((folder / "docs" / "images").glob("results-cw10-small-acting-*"))
    put(folder / "results", "cw10-small", {("trcl", 0): document(triangle([0.9] * 3, [0.1] * 3))})
    assert make_results.main([*words, "--check"]) == 1


def test_pages_with_other_blocks_are_refused():
    with pytest.raises(ValueError, match="page must have the generated blocks a, b, once each, got a"):
        pages.filled("<!-- generated: a -->\nold\n<!-- end -->\n", {"a": "new", "b": "new"})
    assert pages.filled("x\n<!-- generated: a -->\nold\n<!-- end -->\ny", {"a": "new"}) == (
        "x\n<!-- generated: a -->\nnew\n<!-- end -->\ny"
    )


def test_missing_runs_are_counted_by_method(site):
    folder, _ = site
    lines = make_results.missing(folder / "results").splitlines()
    (small,) = [line for line in lines if line.startswith("| cw10-small ")]
    wanted = make_results.make_jobs(make_results.BENCHMARKS["cw10-small"], "plain", None, None, folder, {})
    assert f"| 7 of {len(wanted)} |" in small
    assert len(wanted) > 100


def test_claims_of_which_nothing_can_be_said_are_left_out():
    header, silent = ("the form", "published", "ours: trcl"), ("ends better than replay", "+3.0", NONE)
    spoken = ("ends better than joint", NONE, "undecided: -1.0, 3 seeds")
    assert not make_results.says_something(Table("Claims", header, (silent,)))
    assert make_results.says_something(Table("Claims", header, (silent, spoken)))
