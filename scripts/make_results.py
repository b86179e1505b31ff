"""docs/results.md and its figures, docs/comparison.html and the README's two tables, from the stored results.

.venv/bin/python scripts/make_results.py            # write the pages and docs/images/results-*.png
.venv/bin/python scripts/make_results.py --check    # status 1, with a line each, where they are not those of results/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS, base_of, make_jobs, results_name, setting_of, with_shared
from claims_figure import claims_figure
from claims_table import claims_table, verdicts_table
from comparison_page import mark_of_page, write_comparison
from matplotlib.figure import Figure
from pages import complaints, fingerprint, write_figure, write_page
from published_tables import published_table, reconvergence_table
from results_figures import drawn_runs
from results_figures import figures as retention_figures
from results_tables import (
    best_form,
    cost_table,
    higher_is_better,
    methods_table,
    paired_table,
    probe_table,
    quality_table,
    setting_table,
)
from stored import RESULTS, Results, benchmarks, load

from trcl_policy.files import read_json
from trcl_policy.report.relearning import dips_table, times_table
from trcl_policy.report.runs import short_name
from trcl_policy.report.tables import NONE, Table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
README, HEADLINE = ROOT / "README.md", "cw10-small"
"""The benchmark whose table stands in the README, and whose runs docs/comparison.html shows one by one."""
COMMAND = "scripts/make_results.py"
BESIDE = (
    "cw10-small",
    "cw10-small-acting",
    "cw10-small-long",
    "cw10-small-long-acting",
    "cw10-small-sharp",
    "cw10-small-sharp-acting",
    "paper-cw10-30min",
    "paper-cw10",
)
"""Benchmarks that stand beside the published figures, where they have results."""
CLAIMED = {
    "cw10-small": "cw10",
    "cw10-small-acting": "cw10",
    "cw10-small-long-acting": "cw10",
    "cw10-small-sharp-acting": "cw10",
    "images-digits": "imagenet500",
}
"""Benchmarks on which the paper's claims are judged, with the published figures' column."""
INSIDE = ("cw10-small-dense", "paper-cw10-dense")
"""Benchmarks that were measured inside the tasks, for the published times."""
FEWEST = 3
"""Methods of a setting from which on it is drawn."""
CAPTIONS = {
    "claims": "The paper's claims: each form minus its rivals, seed by seed, with 95 % intervals; hollow: as published",
    "average": "Average over the tasks seen so far",
    "tasks": "Each task over the sequence; dashed: where it is learned; bands: 95 %",
    "reconvergence": "The first three tasks after the switch to a later one, mean over later tasks",
    "probe": "The first three tasks trained again from the last weights; dotted: right after learning",
    "probe-survival": "Share of old tasks that the probe has not brought back yet",
}


def main(words: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; status 1 where something differs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the stored results")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose generated blocks are filled")
    parser.add_argument("--readme", type=Path, default=README, help="page that gets the tables of the main benchmark")
    options = parser.parse_args(words)
    stored = {name: load(options.results, name) for name in benchmarks(options.results)}
    found = with_shared(stored)
    images, report = options.page.parent / "images", options.page.parent / "comparison.html"
    published = read_json(options.results / "published.json")
    drawn = {bench: figures_of(bench, methods, published) for bench, methods in found.items()}
    blocks = make_blocks(published, options.results, stored, found, drawn)
    headline = {HEADLINE: headline_table(found), "verdicts": verdicts(found)}
    data = {bench: fingerprint(files_of(options.results, bench)) for bench in found}
    marks = {images / file_name(bench, name): data[bench] for bench, figures in drawn.items() for name in figures}
    if options.check:
        wrong = complaints(options.page, blocks, marks, "results-*.png", COMMAND)
        wrong += complaints(options.readme, headline, {}, "-", COMMAND)
        if mark_of_page(report) != data.get(HEADLINE):
            wrong.append(f"{report.name} was made from other results; run {COMMAND}")
        print("\n".join(wrong) or f"{options.page.name} is that of the stored results")
        return 1 if wrong else 0
    for bench, figures in drawn.items():
        for name, figure in figures.items():
            path = images / file_name(bench, name)
            write_figure(figure, path, marks[path])
    write_page(options.page, blocks)
    write_page(options.readme, headline)
    if HEADLINE in found:
        write_comparison(report, HEADLINE, found[HEADLINE], data[HEADLINE])
    return 0


def files_of(results: Path, bench: str) -> list[Path]:
    """The files that a benchmark's figures are made from."""
    return list(results.glob(f"{bench}/*/seed-*.json"))


def headline_table(found: Mapping[str, Mapping[str, Results]]) -> str:
    """The table of the main benchmark, with the commands that made it."""
    if HEADLINE not in found:
        return "Nothing is stored yet."
    table = methods_table(found[HEADLINE]).markdown().partition("\n\n")[2]
    command = f".venv/bin/python scripts/reproduce_cw10.py --benchmark {HEADLINE}"
    return f"{table}\n\n<sub>{origin(found[HEADLINE])} Command: `{command}`.</sub>"


def verdicts(found: Mapping[str, Mapping[str, Results]]) -> str:
    """What is said of the paper's claims on the main benchmark, in a word each."""
    if HEADLINE not in found:
        return "Nothing is stored yet."
    return verdicts_table(HEADLINE, found[HEADLINE]).markdown().partition("\n\n")[2]


def file_name(bench: str, figure: str) -> str:
    """Name of a figure's file."""
    return f"results-{bench}-{figure}.png"


def figures_of(bench: str, methods: Mapping[str, Results], published: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a benchmark, by name; a setting with few methods is shown in tables alone."""
    if base_of(bench) or (setting_of(bench) and len(methods) < FEWEST):
        return {}
    judged = bench in CLAIMED and higher_is_better(methods)
    told = claims_figure(methods, published["final"], CLAIMED[bench]) if judged else None
    return ({} if told is None else {"claims": told}) | retention_figures(methods)


def make_blocks(
    published: Mapping[str, Any],
    results: Path,
    stored: Mapping[str, Mapping[str, Results]],
    found: Mapping[str, Mapping[str, Results]],
    drawn: Mapping[str, Iterable[str]],
) -> dict[str, str]:
    """The generated parts of the page, from what is stored and that with the shared results beside it."""
    beside = {name: found[name] for name in BESIDE if name in found}
    inside = next((found[name] for name in INSIDE if name in found), {})
    return {
        "published": published_table(published["final"], beside).markdown() + f"\n\n<sub>{published['source']}.</sub>",
        "verdicts": claims(published, found, CLAIMED, brief=True),
        "claims": claims(published, found, CLAIMED),
        "reconvergence": reconvergence_table(published["reconvergence"], inside).markdown(),
        "benchmarks": "\n\n".join(section(name, stored, drawn[name]) for name in stored) or "Nothing is stored yet.",
        "missing": missing(results),
    }


def claims(
    published: Mapping[str, Any], found: Mapping[str, Mapping[str, Results]], names: Iterable[str], brief: bool = False
) -> str:
    """What is said of the paper's claims on these benchmarks; those of which nothing can be said are left out."""
    there = [name for name in names if name in found]
    told = [claims_table(name, published["final"], CLAIMED[name], found[name], brief) for name in there]
    return "\n\n".join(table.markdown() for table in told if says_something(table)) or "Nothing is stored yet."


def says_something(table: Table) -> bool:
    """Whether any claim could be put to a form, published figures aside."""
    return any(cell != NONE for _, _, *cells in table.rows for cell in cells)


def section(bench: str, stored: Mapping[str, Mapping[str, Results]], drawn: Iterable[str]) -> str:
    """Everything about one benchmark; a setting's methods also beside themselves without it."""
    methods, base = stored[bench], base_of(bench)
    shared = f" The setting does not change other methods, whose runs are those of [{base}](#{base})." if base else ""
    parts = [f"### {bench}", origin(methods) + shared]
    plain = (setting_of(bench) or ("", ""))[1]
    if plain in stored:
        parts += [table.markdown() for table in [setting_table(methods, stored[plain], bench, plain)] if table.rows]
    parts += [table.markdown() for table in tables(methods) if table.rows]
    for name, caption in CAPTIONS.items():
        if name in drawn:
            parts.append(f"![{caption}](images/{file_name(bench, name)})")
    return "\n\n".join(parts)


def tables(methods: Mapping[str, Results]) -> list[Table]:
    """The tables of one benchmark; those without rows are left out by the caller."""
    form, runs = best_form(methods), drawn_runs(methods)
    forms = dict.fromkeys(name for name in ("trcl", form) if name in methods)
    return [
        methods_table(methods),
        *(paired_table(methods, name) for name in forms),
        probe_table(methods),
        quality_table(methods),
        dips_table(runs),
        times_table(runs),
        cost_table(methods),
    ]


def origin(methods: Mapping[str, Results]) -> str:
    """How the results were made: tasks, updates, network, versions."""
    documents = [document for seeds in methods.values() for document in seeds.values()]
    sequences = {tuple(document["metrics"]["tasks"]) for document in documents}
    config, facts = documents[0]["config"], documents[0]["provenance"]
    names = [short_name(task) for task in documents[0]["metrics"]["tasks"]]
    tasks = f"{len(names)} tasks" + (f" in {len(sequences)} orders" if len(sequences) > 1 else f": {', '.join(names)}")
    if len(names) > 20 and len(sequences) == 1:
        tasks = f"{len(names)} tasks"
    steps = sorted({document["config"]["training"]["steps"] for document in documents})
    updates = " or ".join(f"{count:,}" for count in steps)
    commits = sorted({str(document["provenance"]["git_commit"])[:8] for document in documents})
    from_commits = f"{', '.join(commits[:3])}{' and others' if len(commits) > 3 else ''}"
    return (
        f"{tasks}. {updates} updates of {config['training']['batch_size']} a task, "
        f"{facts['num_parameters']:,} weights, torch {facts['packages']['torch']} on {facts['device']}; "
        f"{len(documents)} run{'s' * (len(documents) > 1)} from commit {from_commits}, {precisions(methods)}."
    )


def precisions(methods: Mapping[str, Results]) -> str:
    """In which precision runs learned: that of most, then which runs had another."""
    found: dict[str, dict[str, list[int]]] = {}
    for name, seeds in methods.items():
        for seed, document in seeds.items():
            found.setdefault(document["config"]["precision"], {}).setdefault(name, []).append(seed)
    most, *others = sorted(found, key=lambda precision: -sum(map(len, found[precision].values())))
    rest = [
        f"{name} ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}) in {precision}"
        for precision in others
        for name, seeds in found[precision].items()
    ]
    return f"learned in {most}" + (f", but {', '.join(rest)}" if rest else "")


def missing(results: Path) -> str:
    """What of the comparison is not stored yet, with the commands that make it."""
    lines = ["| benchmark | runs stored | what is missing | command |", "|---|---|---|---|"]
    for name, benchmark in BENCHMARKS.items():
        folder = results_name(benchmark, "plain")
        jobs = make_jobs(benchmark, "plain", None, None, Path("runs"), {})
        there = load(results, folder)
        rest: dict[str, int] = {}
        for job in jobs:
            if job.seed not in there.get(job.method, {}):
                rest[job.method] = rest.get(job.method, 0) + 1
        if rest:
            shown = ", ".join(f"{method} ({count})" for method, count in rest.items())
            shown = shown if len(rest) < 12 else f"{len(rest)} methods"
            command = f"`scripts/reproduce_cw10.py --benchmark {name}`"
            lines.append(f"| {folder} | {len(jobs) - sum(rest.values())} of {len(jobs)} | {shown} | {command} |")
    return "\n".join(lines) if len(lines) > 2 else "Nothing: all runs of all benchmarks are stored."


if __name__ == "__main__":
    sys.exit(main())
