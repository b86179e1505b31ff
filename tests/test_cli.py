"""The console program: help, JSON, spellings, speed."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from tests.tiny import ENVIRONMENT, TASKS, tiny, trcl
from trcl_policy import cli
from trcl_policy.commands import COMMANDS
from trcl_policy.commands.train import _split
from trcl_policy.config import RunConfig
from trcl_policy.schema import ConfigError, field_names

__all__ = ["tiny"]


def test_overview_names_every_command(capsys):
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert cli.main(words) == 0
        text = capsys.readouterr().out
        assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in cli.COMMANDS)
    assert set(COMMANDS) | {"train"} == set(cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\S*\n", capsys.readouterr().out)


def test_help_comes_at_once_and_imports_nothing_heavy():
    script = (
        "import sys; from trcl_policy import cli; cli.main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert time.monotonic() - started < 5  # a tenth of a second alone; the machine may be busy
    for heavy in ("torch", "numpy", "mujoco", "diffusers", "tyro", "zarr", "yaml"):
        assert f"'{heavy}'" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(capsys, name):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(COMMANDS[name][0]):
        if field.name not in ("run", "runs", "src", "dst"):
            assert f"--{field.name.replace('_', '-')}" in text


def test_help_of_train_names_every_setting(capsys):
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for name in field_names(RunConfig):
        assert f"--{name.replace('_', '-')}" in text, name
    assert "--out RUN" in text
    assert "--resume RUN" in text


def test_three_spellings_are_one():
    spellings = (
        ["--training.learning-rate", "1e-3"],
        ["--training.learning_rate=1e-3"],
        ["training.learning_rate=1e-3"],
    )
    for words in spellings:
        assert _split(["x", *words, "--out", "y"]) == (["x"], {"training.learning_rate": "1e-3", "out": "y"})
    assert _split(["--tasks", "[a, b]", "--compile", "--seed=-3"]) == (
        [],
        {"tasks": ["a", "b"], "compile": True, "seed": -3},
    )
    assert _split(["--compile", "false", "c.yaml"]) == (["c.yaml"], {"compile": False})
    assert _split(["--compile", "c.yaml", "--method.raw_lambda", "null"]) == (
        ["c.yaml"],
        {"compile": True, "method.raw_lambda": None},
    )
    assert _split(["dir/a=b.yaml"]) == (["dir/a=b.yaml"], {})
    with pytest.raises(ConfigError, match=r"--seed needs a value, got --out"):
        _split(["--seed", "--out", "x"])


@pytest.mark.parametrize("name", ["methods", "tasks"])
def test_json_is_one_document(capsys, name):
    assert cli.main([name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert cli.main([name]) == 0
    assert "{" not in capsys.readouterr().out


def test_python_dash_m_and_the_console_program_are_one():
    assert trcl("--help").stdout.startswith("usage: trcl COMMAND")


@pytest.fixture(scope="module")
def copy(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(tiny.finished, folder, symlinks=True)
    return folder


@pytest.mark.sim
def test_evaluate_prints_one_document_and_writes_the_same(tiny, copy):
    words = ["evaluate", copy, "--checkpoint", "1", "--episodes", 3, "--json"]
    done = tiny.trcl(*words)
    assert (done.status, done.stderr) == (0, "")  # no bar where stderr is no terminal
    document = json.loads(done.stdout)
    assert document["checkpoint"] == "01"
    assert list(document["tasks"]) == list(TASKS[:2])
    written = json.loads((copy / "evaluations" / "01.json").read_text())
    assert document.items() <= written.items()
    assert len(written["records"]) == 6
    for task, entry in document["tasks"].items():
        wins = [record["success"] for record in written["records"] if record["task"] == task]
        assert entry["success"] == sum(wins) / 3
        assert entry["interval"][0] <= entry["success"] <= entry["interval"][1]


@pytest.mark.sim
def test_evaluate_repeats_what_training_measured(tiny, copy):
    lines = [json.loads(line) for line in (tiny.finished / "episodes.jsonl").read_text().splitlines()]
    wanted = [line for line in lines if line["checkpoint"] == 2 and line["step"] is None]
    assert tiny.trcl("evaluate", copy, "--checkpoint", "last", "--episodes", 2).status == 0
    records = json.loads((copy / "evaluations" / "02.json").read_text())["records"]
    assert [{"checkpoint": 2, "step": None, "update": 30, **record} for record in records] == wanted


@pytest.mark.sim
def test_configuration_of_a_run_fed_back_gives_the_same_run(tiny, tmp_path):
    text = (tiny.finished / "config.yaml").read_text()
    short = ["--tasks", "[window-close]", "evaluation.at_steps=[]", "--evaluation.episodes=1", "--training.steps", 4]
    assert tiny.trcl("train", tiny.config, "--out", tmp_path / "a", *short).status == 0
    assert tiny.trcl("train", tiny.finished / "config.yaml", "--out", tmp_path / "b", *short).status == 0
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()
    weights = [(tmp_path / run / "checkpoints" / "00" / "model.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]
    assert yaml.safe_load(text)["tasks"] == list(TASKS)


@pytest.mark.sim
def test_run_folder_holds_what_the_contract_names(tiny):
    there = {path.name for path in tiny.finished.iterdir()}
    assert there >= {"config.yaml", "provenance.json", "log.jsonl", "tensorboard", "episodes.jsonl", "metrics.json"}
    assert (tiny.finished / "checkpoints" / "last").resolve().name == "02"
    for number in ("00", "01", "02"):
        files = {path.name for path in (tiny.finished / "checkpoints" / number).iterdir()}
        assert files == {"model.safetensors", "config.json", "normalizer.safetensors"}
    metrics = json.loads((tiny.finished / "metrics.json").read_text())
    assert {"training", "fisher", "replay", "evaluation"} <= set(metrics["cost"]["seconds"])
    assert {"weights", "anchor", "replay"} <= set(metrics["cost"]["bytes"])
    assert list((tiny.finished / "tensorboard").glob("events*"))


@pytest.mark.sim
@pytest.mark.parametrize("method", ["joint", "finetune", "er"])
def test_other_methods_run_through(tiny, tmp_path, method):
    words = ["--tasks", "[window-close, faucet-close, window-close]", "--evaluation.episodes=1", "--training.steps=12"]
    done = tiny.trcl("train", tiny.config, "--out", tmp_path / "run", "--method.name", method, *words)
    assert done.status == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["tasks"] == ["window-close-v3", "faucet-close-v3", "window-close-v3#2"]
    assert None not in metrics["scores"][2]
    assert (metrics["scores"][0][0] is None) == (method == "joint")
    assert (metrics["forgetting"] is None) == (method == "joint")
    assert metrics["average_final"] is not None
