"""The commands of ``trcl``: typed options in, work done, a table or one JSON document out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from trcl_policy.config import ConfigError, RunConfig, field_names, load_config

if TYPE_CHECKING:

    from trcl_policy.folder import RunFolder

Json = Annotated[bool, tyro.conf.arg(name="json")]
Options = TypeVar("Options")


class Stopped(Exception):
    """Raised when a command was interrupted with its work saved; the message says how to go on."""


def run(name: str, words: list[str]) -> int:
    """Run the command ``name`` with the words that followed it; returns the exit status."""
    if name == "train":
        return train(words)
    options, work = _COMMANDS[name]
    return work(_parse(options, name, words))


def _parse(options: type[Options], name: str, words: list[str]) -> Options:
    """Options from words by tyro, whose boxed complaints become one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(options, prog=f"trcl {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        text = [line.strip("│╭╮╰╯─ ") for line in complaint.getvalue().splitlines()[1:]]
        useful = [line for line in text if line and "full helptext" not in line and "helptext:" not in line]
        raise ConfigError(f"trcl {name}: {'; '.join(useful[:4])}; see trcl {name} --help") from None


@dataclass(frozen=True)
class Collect:
    """Drive scripted experts and keep their successful episodes.

    Attributes:
        tasks: a sequence (quick, cw10, cw20), task names joined by commas, or a YAML file with a list.
        out: episode store to write or to go on with.
        episodes: successful episodes of each task.
        seed: seed of start states and noise.
        noise: standard deviation of Gaussian noise on the expert's actions.
        extra_steps: control steps kept after the first success.
        worlds: simulated worlds side by side.
        threads: physics threads.
    """

    out: Path
    tasks: str = "quick"
    episodes: int = 50
    seed: int = 0
    noise: float = 0.1
    extra_steps: int = 0
    worlds: int = 25
    threads: int = 2


def collect(options: Collect) -> int:
    """Run ``trcl collect``."""
    from trcl_envs.catalog import make_env, make_expert, resolve_sequence
    from trcl_policy.data.store import EpisodeStore
    from trcl_policy.folder import provenance
    from trcl_policy.rollout.collect import Settings
    from trcl_policy.rollout.collect import collect as fill

    tasks = dict.fromkeys(resolve_sequence(options.tasks))
    settings = Settings(options.seed, options.noise, options.extra_steps)
    if options.out.exists():
        store = EpisodeStore.open(options.out, "a")
    else:
        facts = {key: value for key, value in provenance().items() if key in ("packages", "python", "git_commit")}
        store = EpisodeStore.create(options.out, provenance=facts)
    with store:
        for task in tasks:
            report = fill(
                store,
                lambda name, worlds: make_env(name, worlds, options.threads),
                make_expert,
                task,
                options.episodes,
                settings,
                num_worlds=options.worlds,
            )
            print(
                f"{task}: {report.kept} new episodes, {report.already} already there, {report.failed} failures thrown away, "
                f"{report.steps} steps in {report.seconds:.1f} s"
            )
        print(f"{options.out}: {len(store)} episodes, fingerprint {store.fingerprint()[:12]}")
    return 0


def train(words: list[str]) -> int:
    """Run ``trcl train CONFIG [--section.key VALUE ...] --out RUN`` or ``trcl train --resume RUN``."""
    if "-h" in words or "--help" in words:
        print("usage: trcl train CONFIG --out RUN [--section.key VALUE ...]\n       trcl train --resume RUN\n")
        print("CONFIG is a YAML file or the name of one that ships with the package. Settings:\n")
        tyro.cli(RunConfig, prog="trcl train CONFIG --out RUN", args=["--help"], config=(tyro.conf.FlagCreatePairsOff,))
    positional, settings = _split(words)
    goes_on, out = settings.pop("resume", None), settings.pop("out", None)
    from trcl_policy.run import Interrupted, resume
    from trcl_policy.run import train as learn

    if goes_on is not None:
        if positional or settings or out is not None:
            raise ConfigError(f"--resume takes a run and nothing else, got also {' '.join(words)}")
        where = str(goes_on)
    elif len(positional) != 1 or out is None:
        raise ConfigError(
            "train needs one CONFIG and --out RUN (or --resume RUN), got " + (" ".join(words) or "nothing")
        )
    else:
        where = str(out)
    try:
        folder = resume(where) if goes_on is not None else learn(load_config(positional[0], settings), where)
    except Interrupted:
        raise Stopped(f"stopped and saved; go on with: trcl train --resume {where}") from None
    _print_run(folder)
    return 0


def _split(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Positional words and settings; ``--a.b value``, ``--a.b=value`` and ``a.b=value`` are all read."""
    import yaml

    positional: list[str] = []
    settings: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") and (not equals or key not in field_names()):
            positional.append(word)
            continue
        if not equals:
            found = next(rest, None)
            if found is None:
                raise ConfigError(f"{word} needs a value, got nothing after it")
            value = found
        key = key.replace("-", "_")
        try:
            settings[key] = value if key in ("out", "resume") else yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{word} needs a value that YAML can read, got {value!r}") from None
    return positional, settings


def _print_run(folder: RunFolder) -> None:
    from trcl_policy.report.page import summary_text

    print(summary_text([folder.path]))
    print(f"run: {folder.path}")


@dataclass(frozen=True)
class Evaluate:
    """Roll out a checkpoint without a screen.

    Attributes:
        run: run directory.
        checkpoint: number of tasks learned so far minus one, such as 03; the newest where not given.
        tasks: task names joined by commas; all that the checkpoint has learned where not given.
        episodes: rollouts of each task.
        seed: seed of the first episode.
        workers: processes; 0 computes in this one. The result is the same.
        backend: physics backend: cpu.
        device: auto, cpu or cuda.
        json: print one JSON document.
    """

    run: tyro.conf.Positional[Path]
    checkpoint: str | None = None
    tasks: str | None = None
    episodes: int = 50
    seed: int = 1_000_000
    workers: int = 0
    backend: str = "cpu"
    device: str = "auto"
    json: bool = False


def evaluate(options: Evaluate) -> int:
    """Run ``trcl evaluate``; the result also goes to ``RUN/evaluations/CHECKPOINT.json``."""
    import functools

    import torch
    from tqdm import tqdm

    from trcl_envs.catalog import make_env
    from trcl_policy.continual.metrics import wilson_interval
    from trcl_policy.domains import resolve_device
    from trcl_policy.files import write_json
    from trcl_policy.folder import RunFolder, provenance
    from trcl_policy.rollout.workers import cut, run_jobs

    if options.episodes < 1:
        raise ConfigError(f"episodes must be >= 1, got {options.episodes}")
    folder = RunFolder(options.run)
    torch.set_num_threads(folder.config().threads)
    checkpoint = folder.checkpoint(options.checkpoint)
    tasks = _learned_tasks(checkpoint, options.tasks)
    jobs = cut(str(checkpoint), tasks, range(options.seed, options.seed + options.episodes))
    make = functools.partial(make_env, threads=1, backend=options.backend)
    episodes = []
    with tqdm(total=len(tasks) * options.episodes, unit="episode", disable=None) as bar:
        for done in run_jobs(jobs, make, options.workers, str(resolve_device(options.device))):
            episodes += done
            bar.update(len(done))
    result: dict[str, Any] = {
        "run": str(options.run),
        "checkpoint": checkpoint.name,
        "backend": options.backend,
        "tasks": {},
    }
    for task in tasks:
        wins = [episode.success for episode in episodes if episode.task == task]
        low, high = wilson_interval(sum(wins), len(wins))
        result["tasks"][task] = {"success": sum(wins) / len(wins), "interval": [low, high], "episodes": len(wins)}
    result["average"] = sum(entry["success"] for entry in result["tasks"].values()) / len(tasks)
    records = [episode.record() for episode in episodes]
    target = folder.path / "evaluations" / f"{checkpoint.name}.json"
    write_json(target, {**result, "provenance": provenance(), "records": records})
    lines = [
        f"{task:<28} {entry['success']:.2f}  [{entry['interval'][0]:.2f}, {entry['interval'][1]:.2f}]  {entry['episodes']} episodes"
        for task, entry in result["tasks"].items()
    ]
    _say(options.json, result, "\n".join([*lines, f"{'average':<28} {result['average']:.2f}", f"written: {target}"]))
    return 0


def _learned_tasks(checkpoint: Path, wanted: str | None) -> list[str]:
    from trcl_envs.catalog import resolve_sequence
    from trcl_policy.policy.controller import load_policy

    policy = load_policy(checkpoint)
    if wanted is None:
        return policy.learned_tasks
    tasks = list(dict.fromkeys(resolve_sequence(wanted)))
    for task in tasks:
        policy.reset(task)
    return tasks


@dataclass(frozen=True)
class Recover:
    """Train old tasks again from the final weights, the same way for every method, and watch how fast they come back.

    Attributes:
        run: run directory.
        tasks: task names joined by commas; all but the last where not given.
        steps: updates.
        every: updates between measurements.
        episodes: rollouts at each measurement.
        learning_rate: constant Adam rate; low, so that methods can be told apart.
        target: share of the success right after learning that counts as recovered.
        seed: seed of batches, noise and start states.
        json: print one JSON document.
    """

    run: tyro.conf.Positional[Path]
    tasks: str | None = None
    steps: int = 100
    every: int = 10
    episodes: int = 25
    learning_rate: float = 2e-4
    target: float = 0.9
    seed: int = 2_000_000
    json: bool = False


def recover(options: Recover) -> int:
    """Run ``trcl recover``; the result also goes to ``RUN/recovery.json``."""
    from trcl_policy.files import write_json
    from trcl_policy.folder import RunFolder
    from trcl_policy.moments import recovery_curves

    folder = RunFolder(options.run)
    result = recovery_curves(folder, options)
    write_json(folder.path / "recovery.json", result)
    lines = [
        f"{task:<28} "
        + " ".join(f"{step}:{value:.2f}" for step, value in zip(curve["steps"], curve["success"], strict=True))
        + f"  back after {curve['recovered_after'] if curve['recovered_after'] is not None else 'never'}"
        for task, curve in result["tasks"].items()
    ]
    _say(options.json, result, "\n".join([*lines, f"written: {folder.path / 'recovery.json'}"]))
    return 0


@dataclass(frozen=True)
class Record:
    """Film rollouts of one start state.

    Attributes:
        run: run directory.
        task: task to film; the first of the sequence where not given.
        moments: learned, forgotten, recovered, joined by commas: just after the task was learned, after the last task,
            and after a short recovery from there. Side by side.
        seed: start state; where not given, the first evaluation seed that succeeded when learned and, if there is one,
            failed after the last task.
        recovery_steps: updates of the recovery.
        size: width and height of a panel [pixels].
        out: video file; RUN/videos/TASK.mp4 where not given.
    """

    run: tyro.conf.Positional[Path]
    task: str | None = None
    moments: str = "learned,forgotten,recovered"
    seed: int | None = None
    recovery_steps: int = 100
    size: int = 256
    out: Path | None = None


def record(options: Record) -> int:
    """Run ``trcl record``."""
    from trcl_policy.folder import RunFolder
    from trcl_policy.moments import film

    print(film(RunFolder(options.run), options))
    return 0


@dataclass(frozen=True)
class Report:
    """Compare runs on one page.

    Attributes:
        runs: run directories.
        out: folder for the page, its plots and tables.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path = Path("report")


def report(options: Report) -> int:
    """Run ``trcl report``."""
    from trcl_policy.report.page import build_report, summary_text

    files = build_report(options.runs, options.out)
    print(summary_text(options.runs))
    print(f"page: {files.page}")
    return 0


@dataclass(frozen=True)
class Listing:
    """List what there is.

    Attributes:
        json: print one JSON document.
    """

    json: bool = False


def methods(options: Listing) -> int:
    """Run ``trcl methods``."""
    from trcl_policy.continual.methods import METHODS

    table = {name: dataclasses.asdict(recipe) for name, recipe in METHODS.items()}
    lines = [
        f"{name:<13} {r.summary}\n{'':<13} update {r.update}, anchor {r.anchor}, replay {r.replay}; {r.source}"
        for name, r in METHODS.items()
    ]
    _say(options.json, table, "\n".join(lines))
    return 0


def tasks(options: Listing) -> int:
    """Run ``trcl tasks``."""
    from trcl_envs.catalog import SEQUENCES, task_info, task_names

    infos = {name: dataclasses.asdict(task_info(name)) for name in task_names()}
    lines = [f"{name:<28} {info['horizon']:>4} steps  {info['instruction']}" for name, info in infos.items()]
    sequences = [f"{name:<8} {', '.join(members)}" for name, members in SEQUENCES.items()]
    _say(options.json, {"tasks": infos, "sequences": SEQUENCES}, "\n".join([*lines, "", "sequences:", *sequences]))
    return 0


def doctor(options: Listing) -> int:
    """Run ``trcl doctor``; status 1 where something needed is broken."""
    from trcl_policy import doctor as examination

    checks = examination.diagnose()
    print(examination.report(options.json, checks))
    return 0 if examination.healthy(checks) else 1


def _say(as_json: bool, document: Any, text: str) -> None:
    print(json.dumps(document, indent=2) if as_json else text)


_COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "collect": (Collect, collect),
    "evaluate": (Evaluate, evaluate),
    "recover": (Recover, recover),
    "record": (Record, record),
    "report": (Report, report),
    "methods": (Listing, methods),
    "tasks": (Listing, tasks),
    "doctor": (Listing, doctor),
}
