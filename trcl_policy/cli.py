"""The console program ``trcl``: finds the command, turns errors into one line and an exit status.

Heavy packages are imported by the commands themselves, so that help comes at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "collect": "scripted experts -> episode store",
    "train": "learn a whole sequence of tasks, measure retention after every task",
    "evaluate": "headless rollouts of a checkpoint, success with intervals",
    "recover": "how fast do early tasks come back from the final weights?",
    "fisher": "how many directions carry the Fisher of each learned task, by noise level",
    "record": "mp4 of rollouts: just learned, forgotten, recovered, side by side",
    "convert": "data sets to and from robomimic, LeRobot and diffusion_policy",
    "report": "tables, plots and videos of runs on one self-contained HTML page",
    "methods": "the continual-learning methods and what they are made of",
    "tasks": "the tasks and sequences",
    "doctor": "what this machine can do, and how to mend what it can't",
}
USER_FAULT, MACHINE_FAULT, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 the user can mend it, 1 the machine's fault."""
    try:
        status = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return hung_up()


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("trcl-policy"))
        return 0
    if words[0] not in COMMANDS:
        return _fail(_unknown(words[0]), USER_FAULT)
    return _guarded(words[0], words[1:])


def overview() -> str:
    """The text of ``trcl --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    head = [
        "usage: trcl COMMAND [options]",
        "",
        "Robots that learn manipulation tasks one after another and keep them.",
        "",
    ]
    return "\n".join([*head, *lines, "", "trcl COMMAND --help tells the options of a command."])


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, list(COMMANDS), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"command must be one of {', '.join(COMMANDS)}{hint}, got {name}"


def _guarded(name: str, words: list[str]) -> int:
    from trcl_envs.interface import SimulationError
    from trcl_policy import commands
    from trcl_policy.commands.parsing import Stopped
    from trcl_policy.files import FileError

    try:
        return commands.run(name, words)
    except SystemExit as stop:  # tyro's help
        return int(stop.code or 0)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)
    except Stopped as stopped:
        return _fail(str(stopped), INTERRUPTED)
    except (FileError, SimulationError, OSError, MemoryError) as error:
        return _fail(_one_line(error), MACHINE_FAULT)
    except ValueError as error:
        return _fail(_one_line(error), USER_FAULT)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, named without importing torch
            raise
        return _fail(_one_line(error), MACHINE_FAULT)


def hung_up() -> int:
    """The reader of our output has seen enough (``trcl methods | head -1``): no fault, nothing to say."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _fail(message: str, status: int) -> int:
    print(f"trcl: {message}", file=sys.stderr)
    return status
