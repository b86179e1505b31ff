"""Whatever is wrong is one clear line, the right exit status, and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.tiny import ENVIRONMENT, TRCL, result, tiny

__all__ = ["tiny"]


def one_line(done, status, *parts):
    """Check the exit status and that the only line on stderr is ours and says all of ``parts``."""
    lines = done.stderr.splitlines()
    assert (done.status, len(lines)) == (status, 1), done.stderr
    assert lines[0].startswith("trcl: ")
    for part in parts:
        assert part in lines[0], lines[0]


TRAIN_FAULTS = {
    "misspelt key": (["--training.stepz", "3"], ["training.stepz", "did you mean training.steps?"]),
    "misspelt group": (["--trainin.steps=3"], ["trainin.steps", "did you mean training.steps?"]),
    "wrong type": (["--training.steps", "many"], ["training.steps must be a whole number, got 'many'"]),
    "float for int": (["training.steps=2.5"], ["training.steps must be a whole number, got 2.5"]),
    "not a number": (["--training.learning_rate", "nan"], ["training.learning_rate must be a number"]),
    "impossible value": (["--training.batch_size", "0"], ["training.batch_size must be >= 1, got 0"]),
    "impossible pair": (["--policy.n_action_steps", "99"], ["n_action_steps must be <= horizon = 16, got 99"]),
    "steps never reached": (["--evaluation.at_steps", "[30]"], ["evaluation.at_steps must be < training.steps = 30"]),
    "even kernel": (["--network.kernel", "4"], ["network.kernel must be odd"]),
    "channels": (["--network.channels", "[12]"], ["network.channels must be multiples of 8"]),
    "group as value": (["--training", "3"], ["training must be a group of settings, got 3"]),
    "unknown task": (["--tasks", "hamer-v3"], ["did you mean 'hammer-v3'?"]),
    "unknown method": (["--method.name", "ewk"], ["method.name must be one of finetune,", "did you mean ewc?"]),
    "unknown prediction": (["--diffusion.prediction", "eps"], ["prediction must be one of epsilon, x0, v"]),
    "unknown domain": (["--domain", "image"], ["domain must be one of policy"]),
    "missing data set": (
        ["--data.store", "/nowhere/x.zarr", "--data.episodes", "30"],
        ["trcl collect --tasks faucet-close-v3,window-close-v3,drawer-open-v3 --episodes 30 --out /nowhere/x.zarr"],
    ),
    "too few episodes": (["--data.episodes", "9"], ["must hold 9 episodes of faucet-close-v3, got 4", "trcl collect"]),
    "observation entries": (["--policy.observation_indices", "0:99"], ["policy.observation_indices must be"]),
    "no value": (["--seed"], ["--seed needs a value"]),
    "unreadable value": (["--seed", "[1"], ["--seed needs a value that YAML can read"]),
    "two configurations": (["another"], ["train needs one CONFIG"]),
    "resume and more": (["--resume", "x"], ["--resume takes a run and nothing else"]),
}


@pytest.mark.sim
@pytest.mark.parametrize("fault", TRAIN_FAULTS)
def test_train_names_the_fault_and_writes_nothing(tiny, tmp_path, fault):
    words, parts = TRAIN_FAULTS[fault]
    one_line(tiny.trcl("train", tiny.config, "--out", tmp_path / "run", *words), 2, *parts)
    assert not list(tmp_path.iterdir())


DOCUMENTS = {
    "a list": ("- tasks\n- seed\n", "must be a mapping of keys to values, got list"),
    "tabs": ("training:\n\tsteps: 3\n", "must be a readable YAML file, got: while scanning"),
    "binary": (b"\xff\xfe\x00", "must be a readable YAML file"),
    "an unknown key": ("training: {stepz: 3}\n", "unknown key training.stepz (did you mean training.steps?); accepted"),
    "a group without values": ("training: 3\n", "training must be a group of settings, got 3"),
    "code": ("tasks: !!python/object/apply:os.system ['true']\n", "must be a readable YAML file"),
}


@pytest.mark.sim
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_bad_files_are_named(tiny, tmp_path, kind):
    content, part = DOCUMENTS[kind]
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    one_line(tiny.trcl("train", path, "--out", tmp_path / "run"), 2, str(path), part)
    assert not (tmp_path / "run").exists()


OTHER_FAULTS = {
    "unknown command": (["trian"], ["command must be one of", "did you mean train?"]),
    "unknown option": (
        ["evaluate", "x", "--epissodes", "3"],
        ["unknown option --epissodes (did you mean --episodes?)"],
    ),
    "single dash": (["evaluate", "x", "-e", "3"], ["unknown option -e"]),
    "no value after a flag": (["evaluate", "x", "--episodes"], ["--episodes needs a value, got nothing after it"]),
    "flag after a flag": (["evaluate", "x", "--tasks", "--json"], ["--tasks needs a value, got --json"]),
    "wrong type": (["evaluate", "x", "--episodes", "1.5"], ["--episodes must be a whole number, got '1.5'"]),
    "no run": (["evaluate"], ["evaluate needs a RUN, got nothing"]),
    "no runs": (["report"], ["report needs a RUN"]),
    "no out": (["collect", "--tasks", "quick"], ["collect needs --out"]),
    "too many words": (["methods", "all"], ["methods takes no word 'all' here"]),
    "nothing to train": (["train"], ["train needs one CONFIG and --out RUN"]),
    "unknown configuration": (["train", "qickstart", "--out", "x"], ["did you mean quickstart?"]),
    "no episodes": (["evaluate", "x", "--episodes", "0"], ["episodes must be >= 1, got 0"]),
    "not a run": (["evaluate", "/"], ["run must be a run directory with a config.yaml, got /"]),
    "resume of nothing": (["train", "--resume", "/nowhere"], ["run must be a run directory"]),
    "unknown task": (["collect", "--tasks", "hamer", "--out", "x"], ["did you mean 'hammer-v3'?"]),
    "nothing to collect": (["collect", "--episodes", "0", "--out", "x"], ["episodes must be >= 1, got 0"]),
}


@pytest.mark.sim
@pytest.mark.parametrize("fault", OTHER_FAULTS)
def test_commands_name_the_fault(tiny, fault):
    words, parts = OTHER_FAULTS[fault]
    one_line(tiny.trcl(*words), 2, *parts)


@pytest.mark.sim
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--checkpoint", "7"], ["checkpoint must be one of 00, 01, 02", "got 7"]),
        (["--checkpoint", "../.."], ["checkpoint must be one of 00, 01, 02"]),
        (["--checkpoint", "00", "--tasks", "drawer-open"], ["task must be a learned one (faucet-close-v3)"]),
        (["--tasks", "push-v3"], ["task must be one of faucet-close-v3"]),
        (["--device", "coda"], ["device must be one of auto, cpu, cuda (did you mean cuda?), got coda"]),
        (["--backend", "tpu"], ["backend must be one of cpu, gpu, warp-cpu", "tpu"]),
        (["--backend", "gpu", "--workers", "2"], ["workers must be 0 for backend gpu", "got 2"]),
        (["--backend", "gpu", "--device", "cpu"], ["device must be auto for backend gpu", "got cpu"]),
        (["--workers", "-1"], ["workers must be >= 0, got -1"]),
    ],
)
def test_evaluate_names_the_fault(tiny, words, parts):
    one_line(tiny.trcl("evaluate", tiny.finished, *words), 2, *parts)
    assert not (tiny.finished / "evaluations").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_format(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


def other_width(path):
    document = json.loads(path.read_text())
    document["network"]["width"] = 24
    path.write_text(json.dumps(document))


def fewer_tasks(path):
    document = json.loads(path.read_text())
    document["tasks"] = document["tasks"][:2]
    path.write_text(json.dumps(document))


def without_shape(path):
    document = json.loads(path.read_text())
    del document["shape"]
    path.write_text(json.dumps(document))


def extra_setting(path):
    document = json.loads(path.read_text())
    document["network"]["colour"] = 3
    path.write_text(json.dumps(document))


DAMAGES = {
    "truncated weights": ("model.safetensors", truncate, 2, "must be a whole safetensors file"),
    "missing weights": ("model.safetensors", os.unlink, 1, "no such file"),
    "truncated ranges": ("normalizer.safetensors", truncate, 2, "must be a whole safetensors file"),
    "truncated configuration": ("config.json", truncate, 2, "must be JSON"),
    "another format": ("config.json", other_format, 2, "format must be 1, got 99"),
    "other shapes": ("config.json", other_width, 2, "must fit the network"),
    "other tasks": ("config.json", fewer_tasks, 2, "must fit"),
    "missing entry": ("config.json", without_shape, 2, "shape"),
    "unknown entry": ("config.json", extra_setting, 2, "colour"),
    "a list": ("config.json", lambda path: path.write_text("[1]"), 2, "format must be 1"),
}


@pytest.mark.sim
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_named(tiny, tmp_path, damage):
    name, harm, status, part = DAMAGES[damage]
    shutil.copytree(tiny.finished, tmp_path / "run", symlinks=True)
    path = tmp_path / "run" / "checkpoints" / "02" / name
    harm(path)
    one_line(tiny.trcl("evaluate", tmp_path / "run", "--episodes", 1), status, part, "checkpoints/02")
    assert not (tmp_path / "run" / "evaluations").exists()


@pytest.mark.sim
def test_damaged_state_and_configuration_are_named(tiny, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(tiny.finished, out, symlinks=True)
    truncate(out / "state" / "learner.safetensors")
    one_line(tiny.trcl("train", "--resume", out), 2, "state/learner.safetensors must be a whole safetensors file")
    (out / "config.yaml").write_text("{")
    one_line(tiny.trcl("train", "--resume", out), 2, "config.yaml must be a readable YAML file")


@pytest.mark.sim
def test_existing_run_is_left_alone(tiny):
    before = result(tiny.finished)
    done = tiny.trcl("train", tiny.config, "--out", tiny.finished)
    one_line(done, 2, "out must be a new or empty folder", f"trcl train --resume {tiny.finished}")
    assert result(tiny.finished) == before


@pytest.mark.sim
def test_unwritable_folder_is_the_machines_fault(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    inside = tmp_path / "file" / "run"
    one_line(tiny.trcl("train", tiny.config, "--out", inside), 1, "can't", str(inside), "not a directory")
    one_line(tiny.trcl("collect", "--out", inside), 1, "can't", str(inside))
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        closed = tmp_path / "closed" / "run"
        one_line(tiny.trcl("train", tiny.config, "--out", closed), 1, f"can't write {closed}", "permission denied")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 kB, where mounting is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.sim
def test_full_disk_is_one_line_and_the_run_goes_on_elsewhere(tiny, tmp_path, small_disk):
    done = tiny.trcl("train", tiny.config, "--out", small_disk / "run")
    lines = done.stderr.splitlines()
    assert done.status == 1
    assert all(line.startswith("trcl: ") for line in lines)
    assert "no space left on device" in lines[-1]
    assert not list(small_disk.rglob("*.tmp"))
    shutil.copytree(small_disk / "run", tmp_path / "moved", symlinks=True)
    assert tiny.trcl("train", "--resume", tmp_path / "moved").status == 0
    assert result(tmp_path / "moved") == result(tiny.finished)


@pytest.mark.sim
def test_file_size_limit_is_one_line(tiny, tmp_path):
    done = tiny.trcl("train", tiny.config, "--out", tmp_path / "run", limit=30_000)
    assert done.status == 1
    assert done.stderr.splitlines()[-1].startswith("trcl: can't write ")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.sim
def test_loss_that_diverges_is_named(tiny, tmp_path):
    done = tiny.trcl("train", tiny.config, "--out", tmp_path / "run", "--training.learning_rate", "1e30")
    one_line(done, 2, "training.learning_rate must be low enough", "got 1e+30")


def test_reader_that_hangs_up_is_no_error():
    for words in (["methods"], ["--help"]):
        shell = f"{' '.join([*TRCL, *words])} | head -1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=ENVIRONMENT, check=True)
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "0"


def test_interrupt_is_one_line(tmp_path):
    script = "import trcl_policy.commands as c, trcl_policy.cli as t, sys\n"
    script += "def stop(*a): raise KeyboardInterrupt\nc.run = stop\nsys.exit(t.main(['methods']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (130, "trcl: stopped\n")
