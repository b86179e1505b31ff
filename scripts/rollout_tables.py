"""Tables of docs/speed.md out of results/benchmarks/rollouts.json, which ``benchmark_rollouts.py`` writes.

.venv/bin/python scripts/rollout_tables.py --table      # prints them
.venv/bin/python scripts/rollout_tables.py --write      # puts them into docs/speed.md
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trcl_policy.files import write_text

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "results/benchmarks/rollouts.json", ROOT / "docs/speed.md"
MARKED = re.compile(r"(<!-- table: scripts/rollout_tables\.py [^\n]*-->\n)(?:.*?\n)?(<!-- end -->)", re.S)
RATIOS = {
    "ratio_async": "closed loop against AsyncVectorEnv, the same row-by-row expert on both sides",
    "ratio_async_our_expert": "the same, ours with the expert on arrays",
    "ratio_async_episodes": "episodes/s against AsyncVectorEnv, resets included",
    "ratio_loop": "one thread against Meta-World in a Python loop, the same row-by-row expert",
    "ratio_limit": "closed loop with the expert against `mujoco.rollout`, six evaluations a control step",
    "ratio_limit_five": "the same, five evaluations a control step",
    "ratio_limit_threads": "six evaluations, threads of one process",
    "ratio_limit_processes": "six evaluations, one process a core",
    "ratio_limit_threads_without_expert": "six evaluations, threads of one process, actions given beforehand",
    "ratio_limit_one_thread": "six evaluations, one thread against one thread",
    "ratio_limit_five_one_thread": "five evaluations, one thread against one thread",
}


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--table", action="store_true", help="print the tables")
    choice.add_argument("--write", action="store_true", help="put the tables into docs/speed.md")
    options = parser.parse_args()
    text = tables(json.loads(RESULTS.read_text())["cpu"])
    if options.table:
        print(text)
        return
    write_text(PAGE, MARKED.sub(lambda found: f"{found[1]}{text}\n{found[2]}", PAGE.read_text()))


def tables(cpu: Mapping[str, Any]) -> str:
    """All tables, as Markdown."""
    parts = [about(cpu["machine"]), ratios(cpu), rates(cpu["tasks"]), policies(cpu["policy"]), resets(cpu["reset"])]
    return "\n\n".join([*parts, pictures(cpu["render"])])


def about(machine: Mapping[str, Any]) -> str:
    """What ran this."""
    return (
        f"{machine['cores']} {machine['processor']} cores (load {machine['load']} at the end; the benchmark's own is "
        f"about {machine['cores']}), MuJoCo {machine['mujoco']}, torch {machine['torch']}, {machine['worlds']} worlds, "
        f"{machine['steps']} control steps, the fastest of {machine['rounds']} turns."
    )


def ratios(cpu: Mapping[str, Any]) -> str:
    """What is promised, the smallest over the tasks."""
    rows = ([meaning, f"`cpu.{name}`", f"{cpu[name]:.2f}"] for name, meaning in RATIOS.items())
    return table(["ratio, smallest over the tasks", "field", "x"], rows)


def rates(tasks: Mapping[str, Any]) -> str:
    """Rates of every task."""
    kinds = {"control_steps_per_s": "control steps/s", "episodes_per_s": "episodes/s"}
    first = next(iter(tasks.values()))
    rows = [
        [name if "physics steps" in name else f"{name}, {unit}", *(number(task[kind][name]) for task in tasks.values())]
        for kind, unit in kinds.items()
        for name in first[kind]
    ]
    return table(["", *tasks], rows)


def policies(policy: Mapping[str, Any]) -> str:
    """Closed loop with a diffusion policy."""
    chosen = {name.split()[1]: found for name, found in policy.items() if name.startswith("policy")}
    ways = next(iter(chosen.values()))["control_steps_per_s"]
    rows = [
        [way, *(f"{number(found['control_steps_per_s'][way])} ({ratio(found, way)})" for found in chosen.values())]
        for way in ways
    ]
    rows += [
        [f"share of {part}, {way}", *(f"{found['shares'][way][part]:.0%}" for found in chosen.values())]
        for way in next(iter(chosen.values()))["shares"]
        for part in ("physics", "policy", "bookkeeping")
    ]
    heads = [f"{steps} sampler steps, control steps/s" for steps in chosen]
    return table([f"{policy['task']}, MLP of width 256", *heads], rows)


def ratio(found: Mapping[str, Any], way: str) -> str:
    """How a way compares with one thread."""
    return f"{found['ratio_to_one_thread'][way]:.2f} x"


def resets(reset: Mapping[str, Any]) -> str:
    """Milliseconds of a reset."""
    names = {"settled anew_ms": "settled anew", "remembered_ms": "remembered", "Meta-World_ms": "Meta-World's own"}
    rows = ([label, *(f"{found[name]:.2f}" for found in reset.values())] for name, label in names.items())
    return table(["one reset, ms", *reset], rows)


def pictures(render: Mapping[str, Any]) -> str:
    """Pictures per second."""
    size = render["size"]
    head = f"{render['task']}, {size} x {size} px; in the grid {size // 2} x {size // 2}"
    return table([head, "pictures/s"], ([name, f"{rate:.0f}"] for name, rate in render["pictures_per_s"].items()))


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def number(value: float) -> str:
    """A rate with as many digits as make sense."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


if __name__ == "__main__":
    main()
