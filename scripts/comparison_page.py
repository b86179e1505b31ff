"""The report page of a benchmark's stored results, as ``trcl report`` makes it of run directories."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from results_tables import ordered
from stored import Results, as_run

from trcl_policy.files import write_text
from trcl_policy.report.page import render_page
from trcl_policy.report.sections import draw_figures

MARK = re.compile(r"<!-- results ([0-9a-f]+) -->\n\Z")


def write_comparison(path: Path, bench: str, methods: Mapping[str, Results], mark: str) -> None:
    """Write the page of all methods and seeds, with the fingerprint of the results as its last line."""
    runs = [
        replace(as_run(name, seed, document), label=f"{name}, seed {seed}")
        for name, seeds in ordered(methods).items()
        for seed, document in seeds.items()
    ]
    page = render_page(runs, draw_figures(runs), f"{bench}: continual learning report")
    write_text(path, f"{page.rstrip()}\n<!-- results {mark} -->\n")


def mark_of_page(path: Path) -> str | None:
    """The fingerprint that a page carries; None where there is no page, or one without."""
    found = MARK.search(path.read_text()) if path.exists() else None
    return found[1] if found else None
