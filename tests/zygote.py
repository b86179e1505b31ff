"""Imports everything heavy once, then runs each job of its standard input in a forked process that may kill itself.

A job is one line of JSON: ``words`` for ``trcl``, and where to stop: ``target`` (``module:name`` or
``module:class.name``), ``nth`` call, ``signal`` and ``when`` (``before`` or ``inside``: half-way through the file, for
writers). The answer is one line of JSON: exit status (negative: signal) and what the job wrote.
"""

import importlib
import json
import os
import resource
import signal
import sys
import tempfile

import torch.utils.tensorboard
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

import trcl_policy.report.page
import trcl_policy.rollout.workers
import trcl_policy.run
from trcl_policy import cli

HEAVY = (torch.utils.tensorboard, DDIMScheduler, DPMSolverMultistepScheduler, trcl_policy.report.page)


def patch(target, nth, number, when):
    """Make the ``nth`` call of ``target`` send this process the signal."""
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), [0]

    def stopped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == nth:
            if when == "inside":  # a writer that has its temporary file, half full
                beside = args[0].parent / f".{args[0].name}.torn.tmp"
                beside.parent.mkdir(parents=True, exist_ok=True)
                beside.write_bytes(b"\0" * 100)
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, stopped)


def child(job, out, err):
    os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
    if "target" in job:
        patch(job["target"], job["nth"], job.get("signal", signal.SIGKILL), job.get("when", "before"))
    if "limit" in job:  # largest file [bytes]
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        sys.stdout.flush()
    status = cli.main(job["words"])
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def main():
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                try:
                    child(job, out, err)
                finally:  # a traceback that nobody caught
                    import traceback

                    traceback.print_exc()
                    os._exit(99)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out.seek(0), err.seek(0)
            answer = {"status": status, "stdout": out.read().decode(), "stderr": err.read().decode()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
