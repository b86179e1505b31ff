"""Tables of docs/data.md out of results/benchmarks/data.json, which ``benchmark_data.py`` writes.

.venv/bin/python scripts/data_tables.py --table   # prints them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

STORED = Path(__file__).resolve().parent.parent / "results" / "benchmarks" / "data.json"
NAMES = {
    "ours": "this loader",
    "robomimic_cache_all": "robomimic, everything cached as finished items",
    "robomimic_cache_low_dim": "robomimic, arrays cached",
    "parquet_like_lerobot": "parquet, item by item as LeRobot reads",
    "robomimic_no_cache": "robomimic, no cache",
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the tables (all that this does)")
    parser.parse_args()
    print(table())


def table() -> str:
    """Markdown: speed of loading numbers and pictures, and memory."""
    found = json.loads(STORED.read_text())
    flat, pictures, large = (found[part] for part in ("low_dimensional", "images", "larger_than_memory"))
    lines = ["| loader, numbers only | windows/s | ours is faster by |", "|---|---|---|"]
    for name, rate in sorted(flat["windows_per_s"].items(), key=lambda pair: -pair[1]):
        ratio = "" if name == "ours" else f"{flat['ratio'][name]:.0f} x"
        lines.append(f"| {NAMES[name]} | {rate:,.0f} | {ratio} |")
    rates, draw = pictures["windows_per_s"], large["draw"]
    lines += ["", "| loader, with two pictures of 96 x 96 | windows/s |", "|---|---|"]
    lines += [f"| this loader, chunks in the cache | {rates['ours']:,.0f} |"]
    lines += [f"| this loader, none in the cache | {rates['ours_no_cache']:,.0f} |"]
    lines += [f"| robomimic (gzip, one picture a chunk) | {rates['robomimic_cache_low_dim']:,.0f} |"]
    size = f"{large['bytes_of_pictures'] / 1e9:.1f} GB of pictures, {large['bytes_on_disk'] / 1e9:.1f} GB on disk"
    peak = f"{draw['windows_per_s']:,.0f} windows/s, peak memory {draw['peak_bytes'] / 1e6:,.0f} MB"
    lines += ["", f"A store of {size}: {peak}.", ""]
    lines.append("| peak memory of a conversion, libraries included | 28 MB of pictures | 166 MB of pictures |")
    lines.append("|---|---|---|")
    for form, by_size in large["convert"].items():
        cells = [f"{by_size[size]['peak_bytes'] / 1e6:,.0f} MB" for size in ("28_MB", "166_MB")]
        lines.append(f"| to {form} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
