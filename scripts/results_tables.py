"""Tables of the comparison from stored results: beside the published ones, over seeds, and paired by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from knobs import knob_of
from stored import QUALITIES, Results

from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.statistics import Comparison, compare, mean_interval, mean_of_shares_interval
from trcl_policy.report.tables import NONE, Table, duration, interval, number, size

Document = Mapping[str, Any]
Measure = Callable[[Document], float | None]


def ordered(found: Mapping[str, Results]) -> dict[str, Results]:
    """Methods in the order of ``trcl methods``; unknown ones last."""
    places = {name: place for place, name in enumerate(METHODS)}
    return dict(sorted(found.items(), key=lambda pair: (places.get(pair[0], len(places)), pair[0])))


# ---- one number of one run ----


def average_final(document: Document) -> float | None:
    """Mean score of all tasks after the last one."""
    return document["metrics"].get("average_final")


def forgetting(document: Document) -> float | None:
    """Mean over all tasks of the score right after learning minus the final one, as the paper defines it."""
    return document["metrics"].get("forgetting")


def forgetting_old(document: Document) -> float | None:
    """The same over all tasks but the last."""
    return document["metrics"].get("forgetting_old")


def learned(document: Document) -> float | None:
    """Mean score of each task right after it was learned."""
    diagonal = [row[place] for place, row in enumerate(document["metrics"]["scores"])]
    return None if None in diagonal else sum(diagonal) / len(diagonal)


def old_loss(document: Document) -> float | None:
    """Mean over old tasks of log(held-out loss at the end / right after learning)."""
    losses = document["metrics"].get("losses") or [[None]]
    pairs = [(row[place], losses[-1][place]) for place, row in enumerate(losses[:-1])]
    if not pairs or any(not first or not last for first, last in pairs):
        return None
    return sum(math.log(last / first) for first, last in pairs) / len(pairs)


def probe_time(document: Document, kind: str = "held_after", reference: str = "reference") -> float | None:
    """Mean over old tasks of the probe's updates until back and held; one that never is counts the probe's length.

    Every task is watched equally long, so this is the restricted mean of the times.
    """
    tasks = (document.get("probe") or {}).get("tasks", {}).values()
    values = "success" if kind == "held_after" else "losses"
    known = [task for task in tasks if task[reference] is not None and None not in task[values]]
    if not known:
        return None
    return sum(task["steps"][-1] if task[kind] is None else task[kind] for task in known) / len(known)


def probe_loss_time(document: Document) -> float | None:
    """The same by held-out loss."""
    return probe_time(document, "loss_held_after", "loss_reference")


def by_seed(results: Results, measure: Measure) -> dict[int, float]:
    """A number by seed, where it was measured."""
    found = {seed: measure(document) for seed, document in results.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def higher_is_better(found: Mapping[str, Results]) -> bool:
    """Whether scores are success rates."""
    return all(d["metrics"].get("score", "success") == "success" for seeds in found.values() for d in seeds.values())


def best_form(found: Mapping[str, Results]) -> str | None:
    """The trust-region form with the best mean average final score; of equals the first; None without one.

    Forms with fewer seeds than others take part from three seeds on, so that one lucky seed does not win.
    """
    sign = 1 if higher_is_better(found) else -1
    forms = {name: by_seed(seeds, average_final) for name, seeds in ordered(found).items() if name.startswith("trcl")}
    least = min(3, max(map(len, forms.values()), default=0))
    means = {name: sign * sum(v.values()) / len(v) for name, v in forms.items() if v and len(v) >= least}
    return max(means, key=means.__getitem__) if means else None


# ---- tables ----


def methods_table(found: Mapping[str, Results]) -> Table:
    """One method a row, with 95 % intervals: t over seeds, or over episodes (in brackets) for a single seed."""
    rows = []
    for name, seeds in ordered(found).items():
        finals = by_seed(seeds, average_final)
        rows.append(
            (
                name,
                _knob(name, seeds),
                str(len(seeds)),
                number(_mean(by_seed(seeds, learned))),
                number(_mean(finals)),
                _final_interval(seeds, finals),
                number(_mean(by_seed(seeds, forgetting)), signed=True),
                *_signed(by_seed(seeds, forgetting_old)),
                _percent(_mean(by_seed(seeds, old_loss))),
            )
        )
    score = "success" if higher_is_better(found) else "distance (lower is better)"
    header = ("method", "knob", "seeds", "right after learning", f"average final {score}", "95 %")
    header += ("forgetting (all tasks)", "forgetting (old tasks)", "95 %", "held-out loss of old tasks")
    return Table("Methods", header, tuple(rows))


def _knob(method: str, seeds: Results) -> str:
    values = {knob_of(method, document["config"]) for document in seeds.values()}
    return " and ".join(sorted(value for value in values if value)) or NONE


def _mean(values: Mapping[int, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def _signed(values: Mapping[int, float]) -> tuple[str, str]:
    if not values:
        return NONE, NONE
    found = mean_interval(list(values.values()))
    return number(found.mean, signed=True), interval(found.interval)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * math.expm1(value):+.0f} %"


def _final_interval(seeds: Results, finals: Mapping[int, float]) -> str:
    if len(finals) > 1:
        return interval(mean_interval(list(finals.values())).interval)
    if not finals:
        return NONE
    metrics = seeds[next(iter(finals))]["metrics"]
    if metrics.get("score", "success") != "success":
        return f"({interval(metrics.get('average_final_interval'))})"
    counts = [(round(s * n), n) for s, n in zip(metrics["scores"][-1], metrics["num_episodes"][-1], strict=True) if n]
    return f"({interval(mean_of_shares_interval(counts))})" if counts else NONE


PAIRED: tuple[tuple[str, Measure, float], ...] = (
    ("average final", average_final, 1.0),
    ("forgetting (old tasks)", forgetting_old, -1.0),
    ("held-out loss of old tasks, log", old_loss, -1.0),
    ("probe: updates until back (success)", probe_time, -1.0),
    ("probe: updates until back (loss)", probe_loss_time, -1.0),
)
"""What is compared, and the sign of what is better (for distances, that of the first turns)."""


def paired(
    found: Mapping[str, Results], one: str, other: str, measure: Measure, scale: float = 1.0
) -> Comparison | None:
    """``scale`` times ``one`` minus ``other`` on the seeds both have; None without such."""
    mine, theirs = (by_seed(found.get(name, {}), measure) for name in (one, other))
    seeds = sorted(set(mine) & set(theirs))
    if not seeds:
        return None
    return compare([scale * theirs[seed] for seed in seeds], [scale * mine[seed] for seed in seeds])


def paired_table(found: Mapping[str, Results], form: str) -> Table:
    """``form`` minus every rival on the seeds both have, and who is ahead by the interval."""
    rows: list[tuple[str, ...]] = []
    for rival in (name for name in ordered(found) if name != form):
        for title, measure, better in PAIRED:
            pair = paired(found, form, rival, measure)
            if pair is None or pair.num < 2:
                continue
            sign = better if higher_is_better(found) or measure is not average_final else -better
            rows.append(
                (
                    f"{rival}: {title}",
                    str(pair.num),
                    number(pair.mean, signed=True),
                    interval(pair.interval),
                    f"{pair.p_value:.3f}",
                    verdict(pair.interval, sign, form, rival),
                )
            )
    header = (f"{form} minus", "seeds", "mean", "95 %", "p (sign flips)", "ahead")
    return Table(f"{form} against others, seed by seed", header, tuple(rows))


def setting_table(found: Mapping[str, Results], plain: Mapping[str, Results], name: str, other: str) -> Table:
    """Every method under a setting minus the same method without it, on the seeds both have."""
    rows: list[tuple[str, ...]] = []
    for method in ordered(found):
        both = {name: found[method], other: plain.get(method, {})}
        for title, measure, _ in (("right after learning", learned, 1.0), *PAIRED):
            pair = paired(both, name, other, measure)
            if pair is not None and pair.num > 1:
                told = (number(pair.mean, signed=True), interval(pair.interval), f"{pair.p_value:.3f}")
                rows.append((f"{method}: {title}", str(pair.num), *told))
    header = (f"{name} minus {other}", "seeds", "mean", "95 %", "p (sign flips)")
    return Table(f"Against {other}, seed by seed", header, tuple(rows))


def verdict(bounds: tuple[float, float] | None, sign: float, one: str, other: str) -> str:
    """Which of the two is better where the interval leaves out 0; a tie is not proven by it."""
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "undecided"
    return one if sign * bounds[0] > 0 else other


def probe_table(found: Mapping[str, Results]) -> Table:
    """Mean updates of the probe until old tasks are back and stay, with t intervals over seeds."""
    rows = []
    for name, seeds in ordered(found).items():
        times, losses = by_seed(seeds, probe_time), by_seed(seeds, probe_loss_time)
        if times or losses:
            rows.append((name, str(max(len(times), len(losses))), *_plain(times), *_plain(losses)))
    header = ("method", "seeds", "by success", "95 %", "by held-out loss", "95 %")
    title = "Probe recovery: updates until back at 90 % and held; never counts as the probe's length"
    return Table(title, header, tuple(rows))


def quality_table(found: Mapping[str, Results]) -> Table:
    """Replayed samples of the first and of the last generation, mean over old tasks and seeds; see docs/replay.md.

    Of every task but those with one generation only.
    """
    rows = []
    for name, seeds in ordered(found).items():
        runs = [document["replay"] for document in seeds.values() if document.get("replay")]
        tasks = [task for run in runs for task in run.values() if len(task[QUALITIES[0]]) > 1]
        if tasks:
            cells = (_first_to_last([task[key] for task in tasks]) for key in QUALITIES)
            rows.append((name, str(len(runs)), *cells))
    header = ("method", "seeds", *QUALITIES)
    return Table("Replayed samples beside held-out ones, first to last generation", header, tuple(rows))


def _first_to_last(generations: Sequence[Sequence[float]]) -> str:
    ends = ([of_task[place] for of_task in generations] for place in (0, -1))
    return " to ".join(f"{sum(values) / len(values):.3f}" for values in ends)


def _plain(values: Mapping[int, float]) -> tuple[str, str]:
    if not values:
        return NONE, NONE
    found = mean_interval(list(values.values()))
    return f"{found.mean:.1f}", NONE if found.interval is None else "{:.1f} to {:.1f}".format(*found.interval)


def cost_table(found: Mapping[str, Results]) -> Table:
    """Mean seconds by purpose, and what is kept from task to task besides the weights."""
    parts = ("training", "fisher", "replay", "evaluation")
    rows = []
    for name, seeds in ordered(found).items():
        costs = [document["metrics"]["cost"] for document in seeds.values()]
        seconds = [sum(cost["seconds"].get(part, 0.0) for cost in costs) / len(costs) for part in parts]
        kept = sum(cost["bytes"].get(part, 0) for cost in costs for part in ("anchor", "update", "replay")) / len(costs)
        rows.append((name, str(len(seeds)), *map(duration, seconds), size(kept)))
    return Table("Cost of a run", ("method", "seeds", *parts, "kept"), tuple(rows))
