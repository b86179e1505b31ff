"""Whole runs of the image domain through the console program."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch

from tests.images.runs import images, result
from trcl_policy.files import read_safetensors
from trcl_policy.images.generator import load_generator
from trcl_policy.report.runs import load_runs
from trcl_policy.report.samples import sample_grids
from trcl_policy.report.tables import summary_table

__all__ = ["images"]
pytest.importorskip("sklearn")

STOPS = {
    "inside the second task": ("trcl_policy.continual.learner:_Run._turn", 9, "before"),
    "inside a measurement of the second task": ("trcl_policy.images.scores:Scorer.score", 5, "before"),
    "between images and scores of a checkpoint": ("trcl_policy.run:RunFolder.append_records", 11, "before"),
    "while writing the images of a checkpoint": ("trcl_policy.image_domain:write_safetensors", 2, "inside"),
}


def test_a_run_measures_distances(images):
    metrics = json.loads((images.finished / "metrics.json").read_text())
    assert metrics["score"] == "feature distance"
    assert metrics["tasks"] == ["1:0+1", "2:2+3"]
    (first, nothing), (kept, last) = metrics["scores"]
    assert nothing is None
    assert metrics["average_final"] == pytest.approx((kept + last) / 2)
    assert metrics["forgetting_old"] == pytest.approx(kept - first)
    assert metrics["forgetting"] == pytest.approx((kept - first) / 2)
    assert list(metrics["curves"]["1:0+1"]["2:2+3"]["updates"]) == [0, 1, 2, 3, 6]
    assert set(metrics["reconvergence"]["1:0+1"]["2:2+3"]) == {"+10 %", "+20 %", "+30 %"}
    assert None not in metrics["losses"][1]
    records = [json.loads(line) for line in (images.finished / "scores.jsonl").read_text().splitlines()]
    assert len(records) == 1 + 3 + 1 + 1 + 3 * 2 + 2
    assert all(record["num_made"] == 8 and record["num_real"] == 12 for record in records)
    assert not (images.finished / "episodes.jsonl").exists()
    assert (images.finished / "replay.jsonl").exists()


def slow_but_first(cases):
    return [pytest.param(case, marks=() if n == 0 else pytest.mark.slow) for n, case in enumerate(cases)]


@pytest.mark.parametrize("moment", slow_but_first(STOPS))
def test_kill_and_resume_equals_never_having_stopped(images, tmp_path, moment):
    target, nth, when = STOPS[moment]
    out = tmp_path / "run"
    assert images.trcl("train", images.config, "--out", out, target=target, nth=nth, when=when).status < 0
    resumed = images.trcl("train", "--resume", out)
    assert resumed.status == 0, resumed.stderr
    assert result(out) == result(images.finished)
    assert not list(out.rglob("*.tmp"))


def test_other_images_are_refused_on_resume(images, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(images.finished, out, symlinks=True)
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("per_class: 12", "per_class: 14"))
    resumed = images.trcl("train", "--resume", out)
    assert resumed.status == 2
    assert "images.data must be the one the run began with, got digits with other contents" in resumed.stderr


def test_weights_of_their_own_keep_a_task_bit_for_bit(images, tmp_path):
    out = tmp_path / "run"
    done = images.trcl("train", images.config, "--out", out, "--method.name", "packnet", "--evaluation.at_steps", "[]")
    assert done.status == 0, done.stderr
    shown = [read_safetensors(out / "samples" / f"{n:02d}.safetensors")[0] for n in range(2)]
    assert torch.equal(shown[0]["0"], shown[1]["0"])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["forgetting"] == 0
    generator = load_generator(out / "checkpoints" / "last")
    assert generator.owner is not None
    assert not torch.equal(generator.params_of(0)["unet.conv_in.weight"], generator.params["unet.conv_in.weight"])


def test_commands_on_an_image_run(images, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(images.finished, run, symlinks=True)
    done = images.trcl("evaluate", run, "--samples", 9, "--tasks", "2", "--json")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["score"] == "feature distance"
    assert found["tasks"]["2:2+3"]["num_made"] == 9
    done = images.trcl("fisher", run, "--samples", 16, "--task", "1", "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["tasks"]["1:0+1"]["all"]["num_samples"] == 16
    done = images.trcl("recover", run, "--episodes", 0, "--steps", 2, "--every", 1, "--json")
    assert done.status == 0, done.stderr
    assert len(json.loads(done.stdout)["tasks"]["1:0+1"]["losses"]) == 3


def test_the_report_shows_distances_as_such_and_images_over_time(images):
    loaded = load_runs([images.finished])
    assert "average final feature distance (lower is better)" in summary_table(loaded).header
    (canvas,) = sample_grids(loaded).values()
    shown = read_safetensors(images.finished / "samples" / "01.safetensors")[0]
    assert {name: tuple(leaf.shape) for name, leaf in shown.items()} == {"0": (8, 1, 8, 8), "1": (8, 1, 8, 8)}
    tile = shown["1"][0, 0].numpy().repeat(4, 0).repeat(4, 1)
    places = np.lib.stride_tricks.sliding_window_view(canvas[:, :, 0], tile.shape)
    assert (places == tile).all((2, 3)).any()


@pytest.mark.slow
def test_the_page_holds_the_images(images, tmp_path):
    done = images.trcl("report", images.finished, "--out", tmp_path / "report")
    assert done.status == 0, done.stderr
    page = (tmp_path / "report" / "index.html").read_text()
    assert "average final feature distance (lower is better)" in page
    assert "data:image/png;base64," in page
    assert "success" not in re.sub(r"<details>.*?</details>", "", page, flags=re.S).lower()
    assert (tmp_path / "report" / "samples-trcl_kfac.png").exists()


REFUSED = {
    "record": (["record"], "run must be one of policies to be filmed"),
    "recover": (["recover"], "episodes must be 0 for images, where held-out losses alone are probed, got 25"),
    "workers": (["evaluate", "--workers", "2"], "workers must be left out for images, got 2"),
    "task": (["evaluate", "--tasks", "3"], "task must be one of 1:0+1, 2:2+3, got 3"),
    "unlearned": (["evaluate", "--checkpoint", "00", "--tasks", "2"], "task must be a learned one (1:0+1), got 2:2+3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_images_can_not_do_is_one_line(images, case):
    (command, *more), line = REFUSED[case]
    done = images.trcl(command, images.finished, *more)
    assert done.status == 2
    assert done.stderr.startswith(f"trcl: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_finished_run_that_goes_on_changes_nothing(images, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(images.finished, out, symlinks=True)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert images.trcl("train", "--resume", out).status == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_stopped_by_hand_is_saved(images, tmp_path):
    out, target = tmp_path / "run", "trcl_policy.continual.learner:_Run._turn"
    stopped = images.trcl("train", images.config, "--out", out, target=target, nth=8, signal=signal.SIGINT)
    assert stopped.status == 130
    assert stopped.stderr.splitlines()[-1] == f"trcl: stopped and saved; go on with: trcl train --resume {out}"
