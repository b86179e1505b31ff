"""One self-contained HTML page about one or more runs, and the tables and plots beside it as files."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trcl_policy.files import explained, write_text
from trcl_policy.images.grids import write_png
from trcl_policy.report import plots
from trcl_policy.report.runs import Run, load_runs
from trcl_policy.report.samples import grid_html, sample_grids
from trcl_policy.report.sections import draw_figures, seed_tables, shown_runs, slug, tables_by_section
from trcl_policy.report.tables import interval, number, score_name, size, summary_table

VIDEO_LIMIT = 8_000_000  # largest video put into the page [bytes]
PAGE_LIMIT = 48_000_000  # videos in the page together [bytes]


@dataclass(frozen=True)
class ReportFiles:
    """What :func:`build_report` wrote.

    Attributes:
        page: the self-contained HTML page.
        text: the tables for a terminal.
        markdown: the tables for a README.
        figures: the plots, each as .png and .svg.
        summary: the first table, for a terminal.
    """

    page: Path
    text: Path
    markdown: Path
    figures: tuple[Path, ...]
    summary: str


def build_report(
    runs: Sequence[Path],
    out: Path,
    title: str = "Continual learning report",
    completed: Callable[[str], str] = str,
) -> ReportFiles:
    """Write page, tables and plots about these run directories into ``out``.

    Args:
        runs: run directories with at least a metrics.json; they are only read.
        out: folder, made if missing; files of an earlier report are replaced.
        title: heading of the page.
        completed: see :func:`load_runs`.

    Raises:
        ValueError: a run is not there, has measured nothing, or is damaged.
        FileError: the machine refuses to read or write.
    """
    loaded, out = load_runs(runs, completed), Path(out)
    figures, tables = draw_figures(loaded), [table for part in tables_by_section(loaded).values() for table in part]
    note = [text for text in [seed_tables(loaded)[1]] if text]
    saved = [
        plots.save_figure(f, out / f"{name}{kind}") for name, (_, f) in figures.items() for kind in (".png", ".svg")
    ]
    for label, canvas in sample_grids(loaded).items():
        write_png(out / f"samples-{slug(label)}.png", canvas)
    write_text(out / "tables.txt", "\n\n".join([table.text() for table in tables] + note) + "\n")
    write_text(out / "tables.md", "\n\n".join([table.markdown() for table in tables] + note) + "\n")
    write_text(out / "index.html", render_page(loaded, figures, title))
    summary = summary_table(loaded).text()
    return ReportFiles(out / "index.html", out / "tables.txt", out / "tables.md", tuple(saved), summary)


def render_page(runs: Sequence[Run], figures: Mapping[str, tuple[str, Figure]], title: str) -> str:
    """Return the page as HTML that loads nothing from anywhere."""
    pictures = {name: _picture(name, what, figure) for name, (what, figure) in figures.items()}
    matrices = "".join(picture for name, picture in pictures.items() if name.startswith("matrix-"))
    tables = {name: "".join(table.html() for table in found) for name, found in tables_by_section(runs).items()}
    back = [pictures.get(name, "") for name in ("retention", "reconvergence", "survival", "losses")]
    probe = [pictures.get(name, "") for name in ("probe", "probe-survival")]
    wide = max(len(run.tasks) for run in runs) > 12
    sections = [
        ("Result", _result(runs) + pictures["average"]),
        ("Task by task", pictures["tasks"] + tables["Task by task"]),
        ("Score matrices", f'<div class="{"" if wide else "row"}">{matrices}</div>'),
        ("Forgetting and coming back", "".join(back) + tables["Forgetting and coming back"]),
        ("Recovery from the last weights", "".join(probe) + tables["Probe"]),
        ("Replayed samples", pictures.get("replay", "") + tables["Replay"]),
        ("Generated images", "".join(grid_html(label, canvas) for label, canvas in sample_grids(runs).items())),
        ("Videos", _videos(runs)),
        ("Training and cost", pictures.get("loss", "") + pictures.get("multiplier", "") + tables["Cost"]),
        ("How it was made", "".join(_origin(run) for run in runs)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content)
    return PAGE.format(title=html.escape(title), style=STYLE, sequence=_sequence(runs), body=body)


def _result(runs: Sequence[Run]) -> str:
    """Return tiles and tables of the methods; where they have several seeds, the runs one by one are folded away."""
    (over_seeds, note), each = seed_tables(runs), summary_table(runs).html()
    parts = [_headline(shown_runs(runs)), *(table.html() for table in over_seeds)]
    if note:
        parts.append(f"<p>{html.escape(note)}</p>")
    parts.append(f"<details><summary>Each of the {len(runs)} runs</summary>{each}</details>" if over_seeds else each)
    return "".join(parts)


def _picture(name: str, what: str, figure: Figure) -> str:
    caption = f"<figcaption>{html.escape(what)}</figcaption>" if what else ""
    return f"<figure>{plots.themed_svg(figure, what or name)}{caption}</figure>"


def _sequence(runs: Sequence[Run]) -> str:
    """Return what was learned, once per distinct sequence."""
    sequences = dict.fromkeys(run.tasks for run in runs)
    return "<br>".join(f"{len(tasks)} tasks: {html.escape(' → '.join(tasks))}" for tasks in sequences)


def _headline(runs: Sequence[Run]) -> str:
    """Return one tile a run: average final score, its interval, forgetting."""
    tiles = []
    for index, run in enumerate(runs):
        bounds = run.metrics.get("average_final_interval")
        doubt = f"95 %: {interval(bounds)}" if bounds else "no interval"
        forgot = run.metrics.get("forgetting_old")
        lost = "" if forgot is None else f"<span>forgetting of old tasks {number(forgot, signed=True)}</span>"
        tiles.append(
            f'<div class="tile" style="border-color:{plots.style_of(index)["color"]}"><b>{html.escape(run.label)}</b>'
            f'<span class="big">{number(run.metrics.get("average_final"))}</span>'
            f"<span>{doubt}</span>{lost}</div>"
        )
    return f"<p>Average final {html.escape(score_name(runs))}</p><div class='tiles'>{''.join(tiles)}</div>"


def _videos(runs: Sequence[Run]) -> str:
    """Return the runs' videos, embedded as long as they are small, named otherwise."""
    parts, used = [], 0
    for run in runs:
        for path in run.videos:
            with explained("read", path):
                length = path.stat().st_size
                fits = length <= VIDEO_LIMIT and used + length <= PAGE_LIMIT
                parts.append(_video(run, path, path.read_bytes() if fits else None, length))
            used += length if fits else 0
    return f'<div class="row">{"".join(parts)}</div>' if parts else ""


def _video(run: Run, path: Path, data: bytes | None, length: int) -> str:
    caption = html.escape(f"{run.label}: {path.stem}")
    if data is None:
        where = html.escape(f"{run.path.name}/videos/{path.name}")
        note = f"{size(length)}, too large to be part of this page; the file is <code>{where}</code>"
        return f'<figure class="absent"><p>{note}</p><figcaption>{caption}</figcaption></figure>'
    source = f"data:video/mp4;base64,{base64.b64encode(data).decode('ascii')}"
    video = f'<video controls loop muted playsinline preload="metadata" src="{source}"></video>'
    return f"<figure>{video}<figcaption>{caption}</figcaption></figure>"


def _origin(run: Run) -> str:
    """Return a run's provenance and configuration, folded."""
    facts = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(_plain(value))}</td></tr>'
        for name, value in run.provenance.items()
    )
    table = (
        f'<div class="scroll"><table class="facts">{facts}</table></div>' if facts else "<p>No provenance recorded.</p>"
    )
    config = f"<pre>{html.escape(run.config)}</pre>" if run.config else ""
    return f"<details><summary>{html.escape(run.label)}</summary>{table}{config}</details>"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def summary_text(runs: Sequence[Path]) -> str:
    """Return the summary table of these run directories for a terminal; raises like :func:`build_report`."""
    return summary_table(load_runs(runs)).text()


STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #24292f; --soft: #57606a; --line: #d0d7de; --raised: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ground: #0f1419; --ink: #e6edf3; --soft: #9aa5b1; --line: #30363d; --raised: #171d24 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .4rem }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .9rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
header p, figcaption, caption { color: var(--soft); font-size: .9rem }
header p { margin: 0; overflow-wrap: anywhere }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin-bottom: 1.4rem }
.tile { display: flex; flex-direction: column; min-width: 11rem; padding: .8rem 1rem; background: var(--raised);
  border-left: 5px solid; border-radius: 6px; font-size: .85rem }
.tile b { font-size: .95rem } .tile .big { font-size: 2rem; line-height: 1.25; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
caption { text-align: left; padding-bottom: .4rem; white-space: nowrap }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child { text-align: left; padding-left: 0 } thead th { font-weight: 600; color: var(--soft) }
tbody th { font-weight: 500 }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere }
figure { margin: 1rem 0; min-width: 0 } figure svg { max-width: 100%; height: auto; color: var(--ink) }
figure img { max-width: 100%; height: auto }
figure video { width: 100%; max-width: 48rem; border-radius: 6px; background: #000 }
figure.absent { padding: 1rem; border: 1px dashed var(--line); border-radius: 6px }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem 2rem }
details { margin: .6rem 0 } summary { cursor: pointer; font-weight: 600 }
pre { overflow-x: auto; padding: 1rem; background: var(--raised); border-radius: 6px; font-size: .82rem }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{sequence}</p></header>
<main>{body}</main>
</body>
</html>
"""
