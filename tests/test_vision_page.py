"""docs/vision.md shows the stored results."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_tables_of_the_page_are_those_of_the_stored_results():
    spec = importlib.util.spec_from_file_location("measure_vision", ROOT / "scripts" / "measure_vision.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    shown = re.search(r"<!-- table: .*? -->\n(.*?)\n<!-- end -->", (ROOT / "docs" / "vision.md").read_text(), re.S)
    assert shown[1].strip() == f"{script.table()}\n\n{script.speed_table()}"
    assert len(shown[1].splitlines()) > 10
