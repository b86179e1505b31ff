"""What this machine can do, and how to mend what it can't: the work behind ``trcl doctor``.

Every check returns one line. Heavy packages are imported inside the check that asks about them, so that importing this
file costs nothing, and a package that is broken costs its own line only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import cast

MUJOCO_MIN, MUJOCO_BELOW = "3.3", "4.1"
METAWORLD_MUJOCO_BELOW = "3.17"  # from there on equality data are 12 wide and metaworld's own reset fails
MEMORY_MIN, DISK_MIN = 4.0, 2.0  # [GiB]
SETUP = "run scripts/setup, or: pip install trcl-policy"
GPU_SETUP = "./scripts/setup --gpu"
# What importing a package whose binary parts don't fit together raises ("operator torchvision::nms does not exist").
IMPORT_FAULTS = (ImportError, RuntimeError, OSError, AttributeError)


@dataclass(frozen=True)
class Check:
    """What was found about one thing.

    Attributes:
        name: what was looked at.
        ok: True as wanted, False broken or missing, None missing but not needed for most work.
        found: what is there, in one line.
        advice: how to mend it, in one line; empty where nothing is to mend.
    """

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def diagnose() -> list[Check]:
    """Return every check of this machine, in the order in which things build on each other (a few seconds)."""
    with contextlib.redirect_stdout(sys.stderr):  # robomimic greets on stdout, where --json wants one document only
        return [check() for check in CHECKS]


def healthy(checks: list[Check]) -> bool:
    """Return whether nothing that is needed is missing; parts that are only optional do not count."""
    return all(check.ok is not False for check in checks)


def report(as_json: bool = False, checks: list[Check] | None = None) -> str:
    """Return the checks as text, one line each with the advice below it, or as one JSON document.

    Args:
        as_json: give ``{"healthy": bool, "checks": [{name, ok, found, advice}, ...]}``.
        checks: what to show; by default a fresh ``diagnose()``.
    """
    checks = diagnose() if checks is None else checks
    if as_json:
        return json.dumps({"healthy": healthy(checks), "checks": [asdict(check) for check in checks]}, indent=2)
    width = max(len(check.name) for check in checks)
    marks = {True: "ok", False: "XX", None: "--"}
    lines = []
    for check in checks:
        lines.append(f"{marks[check.ok]}  {check.name:<{width}}  {check.found}")
        if check.advice:
            lines.append(f"    {'':<{width}}  -> {check.advice}")
    return "\n".join(lines)


def check_python() -> Check:
    """Return whether this Python is one that the package supports."""
    found = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 10) <= sys.version_info[:2] <= (3, 13)
    return Check("python", fits, found, "" if fits else "use Python 3.10 to 3.13 (scripts/setup --python PROGRAM)")


def check_torch() -> Check:
    """Return torch's version and the CUDA devices it can use."""
    try:
        import torch
    except IMPORT_FAULTS as fault:
        return _broken("torch", fault, SETUP)
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("torch", True, f"{torch.__version__}, {', '.join(devices) or 'no CUDA device: runs on CPU'}")


def check_torchvision() -> Check:
    """Return whether torchvision, where it is installed, loads beside this torch.

    A torchvision that does not fit breaks diffusers as well, because diffusers imports whatever is installed.
    """
    found = _version("torchvision")
    if found is None:
        return Check("torchvision", None, "not installed; nothing here needs it")
    try:
        importlib.import_module("torchvision")
    except IMPORT_FAULTS as fault:
        advice = "it does not fit this torch and breaks diffusers too: pip uninstall torchvision (not needed)"
        return _broken("torchvision", fault, advice)
    return Check("torchvision", True, found)


def check_mujoco() -> Check:
    """Return whether MuJoCo loads and has a version that is supported."""
    from packaging.version import Version

    try:
        import mujoco
    except IMPORT_FAULTS as fault:
        return _broken("mujoco", fault, SETUP)
    found = mujoco.__version__
    fits = Version(MUJOCO_MIN) <= Version(found) < Version(MUJOCO_BELOW)
    advice = "" if fits else f'pip install "mujoco>={MUJOCO_MIN},<{MUJOCO_BELOW}"'
    return Check("mujoco", fits, found, advice)


def check_metaworld() -> Check:
    """Return whether Meta-World is installed and its own environments can reset under this MuJoCo."""
    from packaging.version import Version

    found, physics = _version("metaworld"), _version("mujoco")
    if found is None:
        return Check("metaworld", None, "not installed", 'for the Meta-World tasks: pip install "trcl-policy[sim]"')
    try:
        importlib.import_module("metaworld")
    except IMPORT_FAULTS as fault:
        return _broken("metaworld", fault, 'pip install "trcl-policy[sim]"')
    if physics is not None and Version(physics) >= Version(METAWORLD_MUJOCO_BELOW):
        advice = "our batched tasks run; for metaworld's own environments: pip install mujoco==3.3.0"
        if _version("mujoco-warp") is not None:  # which needs this MuJoCo
            advice = "our batched tasks run; metaworld's own environments need an environment without GPU physics"
        return Check("metaworld", None, f"{found}, whose own reset fails under mujoco {physics}", advice)
    return Check("metaworld", True, found)


def check_gpu_physics() -> Check:
    """Return whether tasks can be simulated on a GPU: mujoco-warp, the MuJoCo that fits it, and a CUDA device."""
    found = _version("mujoco-warp")
    if found is None:
        return Check("gpu physics", None, "not installed; tasks run on the CPU", f"for a CUDA GPU: {GPU_SETUP}")
    found = f"mujoco-warp {found}, mujoco {_version('mujoco')}, warp {_version('warp-lang')}"
    try:
        from trcl_envs.gpu import has_cuda, import_warp

        warp, _ = import_warp("cpu")
    except IMPORT_FAULTS as fault:  # SimulationError is a RuntimeError
        return Check("gpu physics", None, f"{found}: {_line(fault)}", f"to make it anew: {GPU_SETUP}")
    if not has_cuda(warp):
        advice = "install NVIDIA's driver (nvidia-smi shows it) and a torch for CUDA; backend warp-cpu needs neither"
        return Check("gpu physics", None, f"{found}; no CUDA device that Warp and torch can use", advice)
    return Check("gpu physics", True, found)


def check_zarr() -> Check:
    """Return whether zarr is there in the major version that fits this Python."""
    wanted = 3 if sys.version_info >= (3, 11) else 2  # zarr 3 needs Python 3.11
    found = _version("zarr")
    fits = found is not None and int(found.split(".")[0]) >= wanted
    return Check("zarr", fits, found or "not installed", "" if fits else f'pip install "zarr>={wanted}"')


def check_robomimic() -> Check:
    """Return whether the data part of robomimic loads (its other parts need torchvision and are not used)."""
    if _version("six") is None:
        return Check("robomimic", False, "six is missing, which robomimic forgets to ask for", "pip install six")
    return _loads("robomimic", "robomimic.utils.dataset")


def check_video() -> Check:
    """Return whether videos can be written: PyAV with the libx264 encoder, which its wheels bring along."""
    try:
        codec = importlib.import_module("av.codec")
    except IMPORT_FAULTS as fault:
        return _broken("av", fault, "pip install av")
    try:
        codec.Codec("libx264", "w")
    except ValueError as fault:  # av's UnknownCodecError is one
        return _broken("av", fault, "this PyAV has no libx264: pip install --force-reinstall --only-binary av av")
    return Check("av", True, f"{_version('av')}, libx264")


def check_rendering() -> Check:
    """Return whether pictures can be rendered without a screen; only videos and pictures need it."""
    try:
        from trcl_envs.gl import gl_report
    except IMPORT_FAULTS as fault:
        return _broken("rendering", fault, SETUP)
    gl = gl_report()
    chosen, states = str(gl["chosen"]), cast("dict[str, str]", gl["backends"])
    found = ", ".join(f"{name}: {state}" for name, state in states.items())
    if gl["mend"]:
        return Check("rendering", None, found, f"for videos, on Debian: {gl['mend']}")
    if states.get(chosen, "works") != "works":
        return Check("rendering", None, f"MUJOCO_GL={chosen}; {found}", "unset MUJOCO_GL, another backend works")
    return Check("rendering", True, chosen)


def check_machine() -> Check:
    """Return cores, memory and free disk [GiB]; too little of the last two is a fault."""
    memory, disk = _memory(), shutil.disk_usage(".").free / 2**30
    found = f"{_cores()} cores, {memory:.0f} GiB memory, {disk:.0f} GiB free disk"
    if memory < MEMORY_MIN:
        return Check("machine", False, found, f"{MEMORY_MIN:.0f} GiB of memory are needed; use a smaller configuration")
    if disk < DISK_MIN:
        return Check("machine", False, found, f"free some disk: {DISK_MIN:.0f} GiB are needed for runs")
    return Check("machine", True, found)


def check_threads() -> Check:
    """Return whether torch's threads fit the cores that are free; threads in excess spin and cost up to ten times."""
    try:
        import torch
    except IMPORT_FAULTS as fault:
        return Check("threads", False, _line(fault), SETUP)
    threads, cores, load = torch.get_num_threads(), _cores(), os.getloadavg()[0]
    found = f"torch uses {threads} of {cores} cores, load {load:.1f}"
    if threads > 1 and load + threads > cores + 1:
        return Check("threads", None, found, "other work runs here: OMP_NUM_THREADS=1 keeps threads from spinning")
    return Check("threads", True, found)


def _loads(package: str, module: str, advice: str = SETUP) -> Check:
    try:
        importlib.import_module(module)
    except IMPORT_FAULTS as fault:
        return _broken(package, fault, advice)
    return Check(package, True, _version(package) or "present")


def _broken(package: str, fault: Exception, advice: str) -> Check:
    found = _version(package)
    if found is None and isinstance(fault, ModuleNotFoundError):
        return Check(package, False, "not installed", advice)
    return Check(package, False, f"{found or 'it'} does not load: {_line(fault)}", advice)


def _line(fault: Exception) -> str:
    return " ".join(str(fault).split())[:200] or type(fault).__name__


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_machine,
    check_torch,
    check_threads,
    check_torchvision,
    lambda: _loads("numpy", "numpy"),
    lambda: _loads("diffusers", "diffusers.models.unets.unet_2d"),
    lambda: _loads("gymnasium", "gymnasium"),
    check_mujoco,
    check_metaworld,
    check_gpu_physics,
    check_rendering,
    check_video,
    check_zarr,
    lambda: _loads("h5py", "h5py"),
    check_robomimic,
)
