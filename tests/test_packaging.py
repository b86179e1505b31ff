"""What users get: the wheel, its contents, and its commands in an environment that knows nothing of this checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
needs_commands = pytest.mark.skipif(not (ROOT / "trcl_policy" / "cli.py").exists(), reason="no commands yet")


def run(*command, cwd, check=True):
    """Run a command outside the checkout; its output is in the failure message."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=surroundings, capture_output=True, text=True)
    if check and done.returncode != 0:
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel made from that sdist, so that the sdist is known to be complete."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment with the wheel, which finds what it needs in the packages of this one.

    A line in a .pth file adds that folder without reading the .pth files in it, so that the editable install of this
    checkout stays unseen. The line comes after the install: pip would take the editable install for an older version.
    """
    folder = tmp_path_factory.mktemp("clean") / "env"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps", wheel, cwd=folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    paths = sysconfig.get_paths()
    (site / "borrowed.pth").write_text("\n".join(sorted({paths["purelib"], paths["platlib"]})) + "\n")
    return folder


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_carries_every_source_file_and_nothing_else(wheel):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("no git checkout")
    ours = [name for name in tracked if name.startswith(("trcl_policy/", "envs/trcl_envs/"))]
    wanted = {name.removeprefix("envs/") for name in ours if (ROOT / name).exists()}
    found = contents(wheel)
    assert wanted <= found
    assert {name.split("/")[0].split("-")[0] for name in found} == {"trcl_policy", "trcl_envs"}


def test_wheel_carries_types_licence_and_configs(wheel):
    found = contents(wheel)
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"trcl_policy/{path}" for path in configs} <= found
    assert {"trcl_policy/py.typed", "trcl_envs/py.typed"} <= found
    assert any(name.endswith("licenses/LICENSE") for name in found)


def test_sdist_can_be_built_and_tested_from(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "scripts/setup", "tests/conftest.py"} <= names
    assert not {name for name in names if name.startswith((".venv", "runs/", ".git/"))}


def test_clean_environment_imports_the_wheel_not_the_checkout(environment, tmp_path):
    code = "import trcl_policy, trcl_envs.interface; print(trcl_policy.__file__, trcl_envs.__file__)"
    places = run(environment / "bin" / "python", "-c", code, cwd=tmp_path).stdout.split()
    assert all(Path(place).is_relative_to(environment) for place in places), places


@needs_commands
def test_quickstart_configuration_is_in_the_wheel(wheel):
    assert "trcl_policy/configs/quickstart.yaml" in contents(wheel)


@needs_commands
def test_installed_commands_answer_outside_the_checkout(environment, tmp_path):
    methods = run(environment / "bin" / "trcl", "methods", "--json", cwd=tmp_path).stdout
    json.loads(methods)
    assert all(f'"{name}"' in methods for name in ("finetune", "joint", "ewc", "replay", "er", "trcl"))


@needs_commands
def test_installed_doctor_gives_one_json_document(environment, tmp_path):
    done = run(environment / "bin" / "trcl", "doctor", "--json", cwd=tmp_path, check=False)
    document = json.loads(done.stdout)
    assert (done.returncode == 0) == document["healthy"]


@needs_commands
@pytest.mark.slow
def test_full_install_under_the_constraints_runs(wheel, tmp_path):
    folder = tmp_path / "env"
    venv.create(folder, with_pip=True)
    constraints = ROOT / "constraints.txt"
    torch = next(line for line in constraints.read_text().splitlines() if line.startswith("torch=="))
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-qq", "-c", constraints]
    run(*pip, torch, cwd=tmp_path)
    run("env", "CMAKE_POLICY_VERSION_MINIMUM=3.5", *pip, torch, f"{wheel}[sim]", cwd=tmp_path)
    run(folder / "bin" / "python", "-c", "import trcl_envs; trcl_envs.task_info('hammer-v3')", cwd=tmp_path)
    json.loads(run(folder / "bin" / "trcl", "methods", "--json", cwd=tmp_path).stdout)
