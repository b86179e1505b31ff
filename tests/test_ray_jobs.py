"""The queue on Ray: what is said without it, and the same jobs with it."""

import sys
import time

import pytest

from tests.fake_jobs import FakeJob, job_queue, launchers, ledger
from tests.scripts import script


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs the package ray.*pip install 'trcl-policy\[ray\]'$"):
        launchers.make_launcher("ray", None)


def test_commands_run_in_order_until_one_fails(tmp_path):
    write = "import sys; open('told', 'a').write(sys.argv[1]); sys.exit(int(sys.argv[1] == 'b'))"
    commands = [[sys.executable, "-c", write, name] for name in "abc"]
    assert script("ray_jobs").run_commands(commands, str(tmp_path / "log"), str(tmp_path), {}) == 1
    assert (tmp_path / "told").read_text() == "ab"


@pytest.mark.slow
def test_jobs_run_as_ray_tasks(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    launcher = launchers.make_launcher("ray", 2)
    try:
        made = [FakeJob(tmp_path / name, "none", kind="fake", seconds=0.5) for name in "abc"]
        failing = FakeJob(tmp_path / "d", "none", kind="fake", status=4)
        assert job_queue.run_jobs([*made, failing], launcher, keep_going=True, quiet=True) == 1
        assert sorted(ledger(tmp_path)) == sorted(
            ["d begins", "d ends", *(f"{name} {what}" for name in "abc" for what in ("begins", "ends") * 2)]
        )
        assert made[0].log.read_text() == "work on a\n" * 2
        waiting = FakeJob(tmp_path / "e", "none", kind="fake", seconds=-1)
        handle = launcher.start(waiting.commands(), waiting.log, 0)
        while "e begins" not in ledger(tmp_path):
            assert handle.poll() is None
            time.sleep(0.05)
        handle.stop()
        assert ledger(tmp_path)[-1] == "e saved"
    finally:
        launcher.close()
