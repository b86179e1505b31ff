"""Tables of results: the same rows as plain text for a terminal, as Markdown and as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trcl_policy.report.runs import Run, all_tasks

NONE = "–"  # not measured


@dataclass(frozen=True)
class Table:
    """A header and rows of text cells; the first column is left-aligned, the others right-aligned."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Return the table for a terminal, aligned."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        ruled = [self._aligned(self.header, widths), "  ".join("-" * width for width in widths)]
        return "\n".join([self.title, *ruled, *(self._aligned(row, widths) for row in self.rows)])

    @staticmethod
    def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [[cell.replace("|", "\\|") for cell in row] for row in (self.header, *self.rows)]
        lines.insert(1, rule)
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def html(self) -> str:
        """Return the table as an HTML element."""
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in self.header)
        body = "".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def summary_table(runs: Sequence[Run]) -> Table:
    """One run a row: average final score with its 95 % interval, forgetting and transfer."""
    better = "" if all(run.is_success for run in runs) else " (lower is better)"
    final = f"average final {score_name(runs)}{better}"
    header = ("method", final, "95 % interval", "forgetting", "forgetting (old tasks)")
    rows = [
        (
            run.label,
            number(run.metrics.get("average_final")),
            interval(run.metrics.get("average_final_interval")),
            number(run.metrics.get("forgetting"), signed=True),
            number(run.metrics.get("forgetting_old"), signed=True),
            number(run.metrics.get("backward_transfer"), signed=True),
            number(run.metrics.get("forward_transfer"), signed=True),
        )
        for run in runs
    ]
    return Table("After the whole sequence", (*header, "backward transfer", "forward transfer"), tuple(rows))


def final_table(runs: Sequence[Run]) -> Table:
    """One task a row: its score after the last task, per run, with the interval."""
    rows = [(task, *(_with_interval(*run.final(task)) for run in runs)) for task in all_tasks(runs)]
    better = "" if all(run.is_success for run in runs) else " (lower is better)"
    title = f"Final {score_name(runs)} of each task{better}, with 95 % interval"
    return Table(title, ("task", *(run.label for run in runs)), tuple(rows))


def recovery_table(runs: Sequence[Run]) -> Table:
    """One (task, later task) a row: updates until the old task is back at a share of its first score."""
    rows = []
    for run in runs:
        for task, later in (run.metrics.get("reconvergence") or {}).items():
            for after, levels in later.items():
                steps = ", ".join(f"{share}: {'never' if n is None else n}" for share, n in levels.items())
                rows.append((run.label, str(task), str(after), steps))
    return Table(
        "Recovery [updates until a share of the first score]", ("method", "task", "after", "steps"), tuple(rows)
    )


def cost_table(runs: Sequence[Run]) -> Table:
    """One kind of cost a row, per run: seconds as durations, bytes as sizes."""
    costs = [dict(_flat(run.metrics.get("cost") or {})) for run in runs]
    names = list(dict.fromkeys(name for cost in costs for name in cost))
    rows = [(name, *(_cost(name, cost.get(name)) for cost in costs)) for name in names]
    return Table("Cost", ("", *(run.label for run in runs)), tuple(rows))


def score_name(runs: Sequence[Run]) -> str:
    """Return what the runs' scores are called."""
    return " / ".join(dict.fromkeys(run.score for run in runs))


def number(value: float | None, signed: bool = False) -> str:
    """Return a score with two decimals (three digits when far from 1), a dash when there is none."""
    if value is None:
        return NONE
    value = value + 0.0 if abs(value) >= 0.005 else 0.0  # no "-0.00"
    sign = "+" if signed and value else ""
    return f"{value:{sign}.2f}" if abs(value) < 10 else f"{value:{sign}.3g}"


def interval(value: Sequence[float | None] | None) -> str:
    """Return ``0.81 to 0.92``, a dash when there is none."""
    return NONE if value is None or None in value else f"{number(value[0])} to {number(value[1])}"


def _with_interval(value: float | None, bounds: Sequence[float] | None) -> str:
    return number(value) if bounds is None or value is None else f"{number(value)} ({interval(bounds)})"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``training seconds`` and the like out of nested mappings."""
    for name, entry in value.items():
        label = f"{prefix} {name}".strip().replace("_", " ")
        if isinstance(entry, Mapping):
            yield from _flat(entry, label)
        else:
            yield label, entry


def _cost(name: str, value: Any) -> str:
    if not isinstance(value, (int, float)):
        return NONE if value is None else str(value)
    if "byte" in name:
        return size(value)
    return duration(value) if "second" in name or name.endswith(" s") else f"{value:,.6g}"


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``0.4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Return a number of bytes with a decimal unit, such as ``1.5 MB``."""
    for unit in ("B", "kB", "MB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"
