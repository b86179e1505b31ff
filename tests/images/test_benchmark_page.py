"""The image benchmark's tables: from the stored results, by formulas that are known."""

import json

import pytest

from tests.scripts import script


@pytest.fixture(scope="module")
def images():
    return script("reproduce_images")


def test_the_page_is_that_of_the_stored_results(images):
    filled = script("pages").filled(images.PAGE.read_text(), images.blocks())
    assert filled == images.PAGE.read_text(), "run scripts/reproduce_images.py --page"


def keep(folder, method, finals):
    for seed, (final, forgotten) in enumerate(finals):
        metrics = {"average_final": final, "forgetting_old": forgotten}
        path = folder / method / f"seed-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"metrics": metrics}))


def test_differences_are_paired_by_seed(images, tmp_path):
    keep(tmp_path, "trcl", [(1.0, 0.1), (2.0, 0.1), (9.0, 0.1)])
    keep(tmp_path, "replay", [(1.5, 0.4), (2.7, 0.4)])
    keep(tmp_path, "ewc", [(5.0, 3.0)])
    (line,) = images.comparison(tmp_path, "trcl").splitlines()[2:]
    reach = 12.706 * 0.1  # half the distance of the two differences, times t for one degree of freedom
    assert line == f"| replay | 2 | -0.60 | {-0.6 - reach:+.2f} to {-0.6 + reach:+.2f} | -0.30 | -0.30 to -0.30 |"


def test_without_results_there_is_no_table(images, tmp_path):
    assert images.table(tmp_path) == "Not measured yet."
