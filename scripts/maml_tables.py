"""The tables of docs/maml.md: from results/maml/quick-*.json, and random quadratics counted on the spot.

.venv/bin/python scripts/maml_tables.py                  # print them all, each under its name
.venv/bin/python scripts/maml_tables.py --write          # put them into the page
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcl_policy.continual.alignment import compare
from trcl_policy.files import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "maml", ROOT / "docs" / "maml.md"
KINDS = {
    "diagonal": "diagonal",
    "rank1": "rank 1, mean gradient",
    "top": "rank 1, top eigenvector",
    "lowrank": "rank 16, top eigenvectors",
    "kronecker": "Kronecker products, a layer each",
}
VIEWS = ("distilled", "first order", "plain", "demonstrations")
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
Runs = Sequence[Mapping[str, Any]]
RECOVERY = RESULTS / "recovery.json"
DIMENSIONS, DRAWS, RATE = 12, 100, 0.1


def stored() -> list[dict[str, Any]]:
    """All runs that were measured."""
    return [read_json(path) for path in sorted(RESULTS.glob("quick-*-seed-*.json"))]


def interval(by_seed: Sequence[float], signed: bool = False) -> str:
    """Mean over seeds with Student's 95 % interval; a single seed has none."""
    count, mean = len(by_seed), math.fsum(by_seed) / len(by_seed)
    if count == 1:
        return f"{mean:{'+' if signed else ''}.3f}"
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in by_seed) / (count - 1))
    return f"{mean:{'+' if signed else ''}.3f} ± {T95[count] * spread / math.sqrt(count):.3f}"


def over_seeds(runs: Runs, read: Callable[[Mapping[str, Any]], float], update: int | None = None) -> list[float]:
    """Mean of ``read`` over all moments (of one ``update``; -1 is the last), for each seed."""
    found: dict[int, list[float]] = {}
    for run in runs:
        last = max(moment["update"] for moment in run["moments"])
        wanted = last if update == -1 else update
        found.setdefault(run["seed"], []).extend(
            read(moment) for moment in run["moments"] if wanted in (None, moment["update"])
        )
    return [math.fsum(values) / len(values) for values in found.values()]


def markdown(columns: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def control(runs: Runs) -> str:
    """Cosine of replay alone with MAML, by view and inner rate."""
    shares = list(runs[0]["moments"][0]["views"]["distilled"])

    def rows() -> Iterator[list[str]]:
        for view in VIEWS:
            cells = [
                interval(over_seeds(runs, lambda m, v=view, s=share: m["views"][v][s]["control"]["summed"]))
                for share in shares
            ]
            yield [view, *cells]

    return markdown(["MAML of", *(f"alpha h = {share}" for share in shares)], rows())


def differences(runs: Runs) -> str:
    """What each Fisher adds to the cosine of the sums, for every inner rate."""
    first = runs[0]["moments"][0]["views"]["distilled"]

    def rows() -> Iterator[list[str]]:
        for share in first:
            for kind, name in KINDS.items():
                cells = [_gain(runs, "distilled", share, kind, place) for place in range(4)]
                yield [share, name, *cells, _best(runs, "distilled", share, kind)]

    columns = ["alpha h", "Fisher", "lambda .1", "lambda 1", "lambda 10", "equal length", "best"]
    return markdown(columns, rows())


def views(runs: Runs) -> str:
    """The same at alpha h = 1 for every view."""

    def rows() -> Iterator[list[str]]:
        for view in VIEWS[1:]:
            for kind, name in KINDS.items():
                cells = [_gain(runs, view, "1.0", kind, place) for place in (1, 3)]
                yield [view, name, *cells, _best(runs, view, "1.0", kind)]

    return markdown(["MAML of", "Fisher", "lambda 1", "equal length", "best"], rows())


def _gain(runs: Runs, view: str, share: str, kind: str, place: int) -> str:
    return interval(over_seeds(runs, lambda m: m["views"][view][share][kind]["summed"][place]), signed=True)


def _best(runs: Runs, view: str, share: str, kind: str) -> str:
    return interval(over_seeds(runs, lambda m: m["views"][view][share][kind]["best"]), signed=True)


def moments(runs: Runs) -> str:
    """Control and differences (lambda 1, alpha h = 1, distilled) by update."""

    def rows() -> Iterator[list[str]]:
        updates = [1, 10, 100, -1]
        found = [over_seeds(runs, lambda m: m["views"]["distilled"]["1.0"]["control"]["summed"], u) for u in updates]
        yield ["replay alone", *map(interval, found)]
        for kind, name in KINDS.items():
            gains = [
                over_seeds(runs, lambda m, k=kind: m["views"]["distilled"]["1.0"][k]["summed"][1], u) for u in updates
            ]
            yield [name, *(interval(gain, signed=True) for gain in gains)]

    return markdown(["", "update 1", "update 10", "update 100", "end"], rows())


def curvature(runs: Runs) -> str:
    """How well F d stands for H d along training, and how much of H each Fisher holds."""

    def mean(values: Sequence[float]) -> float:
        return math.fsum(values) / len(values)

    def rows() -> Iterator[list[str]]:
        for kind, name in {"identity": "identity", **KINDS}.items():
            cosines = [
                interval(over_seeds(runs, lambda m, k=kind: mean(m["curvature"][k]["cosine"]), update))
                for update in (1, 10, 100, -1)
            ]
            ratios = sorted(
                value for run in runs for m in run["moments"] for value in m["curvature"][kind].get("ratio", ())
            )
            middle = f"{ratios[len(ratios) // 2]:.2g}" if ratios else "-"
            ends = [end[kind] for run in runs for end in run["ends"] if kind in end]
            share = f"{mean([end['hessian_share'] for end in ends]):.2f}" if ends else "-"
            yield [name, *cosines, middle, share]

    columns = ["F", "update 1", "update 10", "update 100", "end", "d'Fd / d'Hd, median", "share of tr H"]
    return markdown(columns, rows())


def quadratics(runs: Runs = ()) -> str:
    """Random bowls in 12 dimensions: cosine with MAML at lambda 0, 1, 10, and how often replay alone is nearest."""

    def rows() -> Iterator[list[str]]:
        for largest in (1.0, 4.0, 10.0, 40.0):
            for kind in ("top eigenvector", "random direction"):
                found = torch.tensor([random_bowl(seed, largest, kind) for seed in range(DRAWS)])
                low, middle, high = (found.quantile(q, dim=0) for q in (0.05, 0.5, 0.95))
                cells = [f"{middle[k]:.3f} ({low[k]:.3f} to {high[k]:.3f})" for k in range(3)]
                ordered = float(((found[:, 0] > found[:, 1]) & (found[:, 1] > found[:, 2])).double().mean())
                yield [f"{RATE * largest:g}", kind, *cells, f"{ordered:.3f}"]

    columns = ["alpha h", "direction of F", "lambda 0", "lambda 1", "lambda 10", "ordered 0 > 1 > 10"]
    return markdown(columns, rows())


def random_bowl(seed: int, largest: float, kind: str) -> list[float]:
    """Cosines with MAML at lambda 0, 1, 10 for H = A A' scaled to its ``largest`` eigenvalue and F = u'Hu u u'."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    values, vectors = torch.linalg.eigh((lambda a: a @ a.T)(normal(DIMENSIONS, DIMENSIONS)))
    values = values / values[-1] * largest
    hessian = vectors @ torch.diag(values) @ vectors.T
    d, other = normal(DIMENSIONS), normal(DIMENSIONS)
    u = {"top eigenvector": vectors[:, -1], "random direction": other}[kind]
    u = u / u.norm()
    factor = torch.eye(DIMENSIONS, dtype=torch.float64) - RATE * hessian
    meta, pulled = hessian @ factor @ factor @ d, (u @ hessian @ u) * u * (u @ d)
    return [compare([meta], [hessian @ d], [pulled], weight).summed for weight in (0.0, 1.0, 10.0)]


def recovery(runs: Runs = ()) -> str:
    """Predicted and measured time constants: mean over seeds, with the range."""
    runs = read_json(RECOVERY)["runs"]
    lines = ["| beta | lambda | formula, updates | formula with h | measured |", "|---|---|---|---|---|"]
    for place, one in enumerate(runs[0]["settings"]):
        found = [run["settings"][place] for run in runs]
        cells = [spread([other[key] for other in found]) for key in ("predicted", "predicted_with_h", "measured")]
        lines.append(f"| {one['beta']:g} | {one['lambda']:g} | {' | '.join(cells)} |")
    ratios = ", ".join(f"{run['h'] / run['rho']:.2f}" for run in runs)
    return "\n".join([*lines, "", f"h / rho by seed: {ratios}."])


def spread(values: Sequence[float | None]) -> str:
    """Mean and range of some numbers; a run that never came back is said."""
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return "never"
    mean, low, high = sum(there) / len(there), min(there), max(there)
    return f"{mean:.0f}" if high - low < 0.5 else f"{mean:.0f} ({low:.0f} to {high:.0f})"


TABLES: dict[str, Callable[[Runs], str]] = {
    "quadratics": quadratics,
    "recovery": recovery,
    "control": control,
    "differences": differences,
    "moments": moments,
    "views": views,
    "curvature": curvature,
}


def written(page: str, name: str, table: str) -> str:
    """The page with the table called ``name`` in its place.

    Raises:
        ValueError: the page has no place for it.
    """
    mark, end = f"<!-- table: {name} -->\n", "\n<!-- end -->"
    if mark not in page:
        raise ValueError(f"page must hold {mark.strip()}, got none")
    before, after = page.split(mark)
    return before + mark + table + end + after.split(end, 1)[1]


def main(write: bool = False) -> int:
    """Print all tables or write them into the page; returns the exit status."""
    runs = stored()
    found = {name: make(runs) for name, make in TABLES.items()}
    if write:
        page = PAGE.read_text()
        for name, table in found.items():
            page = written(page, name, table)
        write_text(PAGE, page)
    else:
        print("\n\n".join(f"{name}\n{table}" for name, table in found.items()))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the tables into docs/maml.md")
    sys.exit(main(parser.parse_args().write))
