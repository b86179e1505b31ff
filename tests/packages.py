"""Packages made on the spot, installed as far as entry points care."""

from pathlib import Path


def install(folder: Path, module: str, code: str, **groups: dict[str, str]) -> Path:
    """Write ``module`` and its metadata into ``folder``, which then belongs on the path; groups have _ for dots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[trcl_envs.{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
