"""docs/maml.md shows the stored measurements and names only tests that exist."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "maml.md").read_text()
TABLES = ("quadratics", "recovery", "control", "differences", "moments", "views", "curvature")


@pytest.fixture
def maml_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import maml_tables

    yield maml_tables
    sys.modules.pop("maml_tables", None)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_stored_results(maml_tables, name):
    assert tuple(maml_tables.TABLES) == TABLES
    shown = PAGE.split(f"<!-- table: {name} -->\n")[1].split("\n<!-- end -->")[0]
    assert shown == maml_tables.TABLES[name](maml_tables.stored())


def test_named_tests_exist():
    there = {
        name
        for path in (ROOT / "tests" / "continual").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    named = {name for name in re.findall(r"\b(test_\w+)", PAGE) if not (ROOT / f"tests/continual/{name}.py").exists()}
    assert len(named) > 8
    assert named <= there
