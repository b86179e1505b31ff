"""The tables of docs/replay.md come from the stored results, by formulas that are known."""

import importlib
import math
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("measure_replay")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("table", ["options", "students"])
def test_shown_tables_are_those_of_the_stored_results(script, table):
    shown = re.search(rf"<!-- {table}: .*? -->\n(.*?)\n<!-- end -->", (ROOT / "docs/replay.md").read_text(), re.S)
    assert shown is not None
    assert shown[1] == getattr(script, f"{table}_table")()


def result(shift, factor):
    """Two pools of tasks a and b, then a last task; ``shift`` moves the last pool, ``factor`` the losses."""
    lines = [("a", "a", 1, 0.9), ("b", "a", 2, 0.7 + shift), ("b", "b", 1, 0.5 + shift)]
    return {
        "lines": [
            {"after": after, "task": task, "generation": g, "share": h, "coverage": h, "harmonic": h}
            for after, task, g, h in lines
        ],
        "held_out_loss": {"a": 0.1 * factor, "b": 0.3 * factor, "c": 5.0},
        "seconds": {"replay": 2.0},
    }


def test_differences_are_paired_by_seed_with_a_t_interval(script):
    defaults = [result(0.0, 1.0), result(0.1, 2.0), result(0.2, 3.0)]
    changed = [result(0.01, 1.1), result(0.12, 2.2), result(0.23, 3.3)]
    cells = dict(zip(script.OPTION_COLUMNS, script.option_cells(changed, defaults), strict=True))
    reach = 4.303 * 0.01 / math.sqrt(3)
    assert cells["against default"] == f"+0.020 ({0.02 - reach:+.3f} to {0.02 + reach:+.3f})"
    ten = 100 * math.log(1.1)
    assert cells["loss against default, %"] == f"{ten:+.1f} ({ten:+.1f} to {ten:+.1f})"
    assert cells["held-out loss of old tasks"] == f"{0.2 * 1.1 * 2:.4f}"  # without the last task's
    assert script.option_cells(defaults, defaults)[5] == ""
