"""What is said of the paper's claims follows from paired differences by known rules."""

import pytest

from tests.fake_results import document, probe, triangle
from tests.scripts import script

claims, figure = script("claims_table"), script("claims_figure")
FINAL = {
    "trcl_rank1": {"cw10": [[88.0, 0.3], [4.0, 0.9]], "imagenet500": [[44.0, 3.0], [10.0, 3.0]]},
    **{
        rival: {"cw10": [[85.0, 0.4], [8.0, 1.2]], "imagenet500": [[53.0, 4.0], [18.0, 4.0]]} for rival in claims.RIVALS
    },
}


def runs(*finals, score="success"):
    """Results by seed; the first of two tasks falls from .9 to ``finals[seed]``."""
    return {seed: document(triangle([0.9, 0.9], [x, 0.9]), seed=seed, score=score) for seed, x in enumerate(finals)}


def row(found, words, bench="cw10-small", domain="cw10"):
    table = claims.claims_table(bench, FINAL, domain, found)
    (cells,) = [row for row in table.rows if row[0] == words]
    return dict(zip(table.header, cells, strict=True))


FOUND = {
    "trcl_rank1": runs(0.5, 0.6, 0.7),
    "trcl_ball": runs(0.8, 0.9),
    "replay": runs(0.7, 0.8, 0.92),
    "ewc_rank1": runs(0.1, 0.2, 0.28),
    "finetune": runs(0.4, 0.899, 0.5),
    "vrmcl": runs(0.3, 0.4),
}


def test_a_verdict_needs_three_pairs_and_an_interval_without_zero():
    said = {rival: row(FOUND, f"ends better than {rival}")["ours: trcl_rank1"] for rival in claims.RIVALS}
    assert said["ewc_rank1"].startswith("**holds**: +20.3 (")
    assert said["replay"].startswith("**refuted**: -10.3 (")
    assert said["replay"].endswith("), 3 seeds")
    assert said["finetune"].startswith("undecided: +0.0 (")
    assert said["vrmcl"].startswith("open: +10.0 (")
    assert said["ftml"] == "–"


def test_the_published_difference_has_the_error_of_independent_means():
    assert row(FOUND, "ends better than replay")["published, points"] == "+3.0 ± 0.5"
    assert row(FOUND, "forgets less than ftml")["published, points"] == "-4.0 ± 1.5"


def test_less_forgetting_speaks_for_a_form_and_so_does_a_smaller_distance():
    assert row(FOUND, "forgets less than ewc_rank1")["ours: trcl_rank1"].startswith("**holds**: -20.3 (")
    assert row(FOUND, "forgets less than replay")["ours: trcl_rank1"].startswith("**refuted**: +10.3 (")
    distances = {"trcl_rank1": runs(2.0, 3.0, 4.0, score="fid"), "replay": runs(4.0, 5.2, 6.0, score="fid")}
    for seeds in distances.values():
        for made in seeds.values():
            made["metrics"]["average_final"] = made["metrics"]["scores"][-1][0]
    told = row(distances, "ends better than replay", "images-digits", "imagenet500")
    assert told["ours: trcl_rank1"].startswith("**holds**: -2.07 (")
    assert told["published, distance"] == "-9.0 ± 5.0"


def test_rivals_that_the_paper_leaves_out_have_rows_where_there_are_results():
    words = [row[0] for row in claims.claims_table("cw10-small", FINAL, "cw10", FOUND).rows]
    assert "ends better than er" not in words
    table = claims.claims_table("cw10-small", FINAL, "cw10", {**FOUND, "er": runs(0.5, 0.5, 0.5)})
    (er,) = [row for row in table.rows if row[0] == "ends better than er"]
    assert er[1] == "–"
    assert not any(row[0].startswith("brings") for row in table.rows)  # no probe was run


def test_the_brief_table_holds_what_the_paper_claims_of_three_forms():
    found = {**FOUND, "er": runs(0.5, 0.5, 0.5), "trcl": runs(0.8, 0.8, 0.9), "replay_dark": runs(0.9, 0.9, 0.9)}
    whole, brief = (claims.claims_table("cw10-small", FINAL, "cw10", found, brief=flag) for flag in (False, True))
    assert brief.header == (
        *whole.header[:2],
        "ours: trcl_rank1",
        "ours: trcl",
        "ours: replay_dark",
    )  # trcl_fixed has no results
    kept = [row for row in whole.rows if row[0].startswith(("ends", "forgets")) and row[1] != "–"]
    columns = [whole.header.index(name) for name in brief.header]
    assert list(brief.rows) == [tuple(row[column] for column in columns) for row in kept]
    assert len(kept) == 2 * len(claims.RIVALS)


def test_copies_of_fine_tuning_end_where_it_has_learned_its_tasks():
    told = row(FOUND, "ends better than copies")  # two tasks at .9; the form ends at the mean of .5, .6, .7 and .9
    assert told["ours: trcl_rank1"].startswith("**refuted**: -15.0 (")
    words = [row[0] for row in claims.claims_table("cw10-small", FINAL, "cw10", FOUND).rows]
    assert [word for word in words if "copies" in word] == ["ends better than copies"]
    without = {name: seeds for name, seeds in FOUND.items() if name != "finetune"}
    assert not any("copies" in row[0] for row in claims.claims_table("cw10-small", FINAL, "cw10", without).rows)


def test_the_shortest_table_says_of_each_form_whom_it_beats():
    table = claims.verdicts_table("cw10-small", FOUND)
    assert [row[0] for row in table.rows] == ["trcl_rank1"]  # the only one of BRIEF that has results
    ends = dict(zip(table.header, table.rows[0], strict=True))["ends better than"]
    assert ends == "**yes**: ewc_rank1; **no**: replay; undecided: finetune; too few seeds: vrmcl"
    lost = dict(zip(table.header, table.rows[0], strict=True))["forgets less than"]
    assert lost.startswith("**yes**: ewc_rank1; **no**: replay")
    assert table.rows[0][-1] == "–"  # no probe was run
    distances = {"trcl": runs(2.0, 3.0, 4.0, score="fid"), "replay": runs(4.0, 5.2, 6.0, score="fid")}
    for seeds in distances.values():
        for made in seeds.values():
            made["metrics"]["average_final"] = made["metrics"]["scores"][-1][0]
    assert claims.verdicts_table("images-digits", distances).rows[0][1] == "**yes**: replay"


def marks(panel):
    """Label, place and half width of every mark of a panel."""
    for container in panel.containers:
        line, _, (bars,) = container.lines
        (low, _), (high, _) = bars.get_segments()[0]
        yield container.get_label(), line.get_xdata()[0], (high - low) / 2


def test_the_picture_shows_differences_in_points_with_their_intervals_and_what_was_published():
    found = {**FOUND, "trcl": runs(0.8, 0.8, 0.9)}
    drawn = figure.claims_figure(found, FINAL, "cw10")
    final, forgotten, probed = drawn.axes
    told = list(marks(final))
    pair = claims.paired(found, "trcl_rank1", "replay", claims.average_final, 100.0)
    assert ("trcl_rank1", pair.mean, pytest.approx(pair.interval[1] - pair.mean)) in told
    assert ("published", 3.0, pytest.approx(1.96 * 0.5)) in told
    assert {label for label, *_ in told} == {"trcl_rank1", "trcl", "published"}
    pair = claims.paired(found, "trcl", "replay", claims.forgetting, 100.0)
    assert ("trcl", pair.mean, pytest.approx(pair.interval[1] - pair.mean)) in list(marks(forgotten))
    assert list(marks(probed)) == []
    assert [label.get_text() for label in final.get_yticklabels()] == ["replay", "vrmcl", "copies"]
    assert figure.claims_figure({"replay": FOUND["replay"]}, FINAL, "cw10") is None


def test_updates_are_told_to_one_decimal():
    def probed(*steps):
        scores = triangle([0.9, 0.9], [0.5, 0.9])
        return {seed: document(scores, seed=seed, probe=probe(step)) for seed, step in enumerate(steps)}

    told = row({"trcl": probed(10, 20, 31), "replay": probed(30, 50, 40)}, f"{claims.CLAIMS[2][0]} replay")
    assert told["ours: trcl"] == "undecided: -19.7 (-45.8 to +6.4), 3 seeds"


@pytest.mark.parametrize(
    ("bounds", "seeds", "word"),
    [
        ((0.1, 0.2), 3, "**holds**"),
        ((-0.2, -0.1), 5, "**refuted**"),
        ((0.0, 0.2), 5, "undecided"),
        ((0.1, 0.2), 2, "open"),
        (None, 1, "open"),
    ],
)
def test_verdicts(bounds, seeds, word):
    assert claims.verdict(bounds, seeds, 1) == word
