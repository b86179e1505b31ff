import builtins
import importlib
import json
import sys
import types

import pytest

from trcl_envs.interface import SimulationError
from trcl_policy import doctor
from trcl_policy.doctor import Check

GOOD = Check("a", True, "1.0")
BAD = Check("b", False, "gone", "install b")
ABSENT = Check("c", None, "not here", "maybe")


@pytest.fixture
def broken(monkeypatch):
    """Let the import of one package fail the way that a torchvision of another torch does."""

    def break_package(name, fault):
        real, real_module = builtins.__import__, importlib.import_module

        def fail(real_import):
            def call(wanted, *args, **kwargs):
                if wanted.split(".")[0] == name:
                    raise fault
                return real_import(wanted, *args, **kwargs)

            return call

        monkeypatch.setattr(builtins, "__import__", fail(real))
        monkeypatch.setattr(importlib, "import_module", fail(real_module))

    return break_package


def versions(monkeypatch, **found):
    monkeypatch.setattr(doctor, "_version", lambda package: found.get(package))


def test_missing_optional_parts_are_healthy_and_broken_ones_are_not():
    assert doctor.healthy([GOOD, ABSENT])
    assert not doctor.healthy([GOOD, BAD])


def test_text_gives_the_advice_below_what_is_wrong():
    lines = doctor.report(checks=[GOOD, BAD]).splitlines()
    assert [line.split() for line in lines] == [["ok", "a", "1.0"], ["XX", "b", "gone"], ["->", "install", "b"]]


def test_json_is_one_document_with_every_check():
    document = json.loads(doctor.report(as_json=True, checks=[GOOD, BAD, ABSENT]))
    assert document["healthy"] is False
    assert document["checks"][1] == {"name": "b", "ok": False, "found": "gone", "advice": "install b"}
    assert document["checks"][2]["ok"] is None


def test_this_machine_is_diagnosed_without_a_word_on_stdout(capsys):
    checks = doctor.diagnose()
    assert capsys.readouterr().out == ""
    assert len({check.name for check in checks}) == len(checks) == len(doctor.CHECKS)
    assert all(check.advice for check in checks if check.ok is False)
    assert {"python", "torch", "mujoco", "zarr", "rendering"} <= {check.name for check in checks}


def test_torchvision_that_does_not_fit_is_to_be_uninstalled(monkeypatch, broken):
    versions(monkeypatch, torchvision="0.28.0")
    broken("torchvision", RuntimeError("operator torchvision::nms does not exist"))
    check = doctor.check_torchvision()
    assert check.ok is False
    assert check.found == "0.28.0 does not load: operator torchvision::nms does not exist"
    assert "pip uninstall torchvision" in check.advice


def test_absent_torchvision_is_no_fault(monkeypatch):
    versions(monkeypatch)
    assert doctor.check_torchvision().ok is None


def test_missing_package_is_named_as_not_installed(monkeypatch, broken):
    versions(monkeypatch)
    broken("torch", ModuleNotFoundError("No module named 'torch'", name="torch"))
    check = doctor.check_torch()
    assert (check.ok, check.found) == (False, "not installed")


@pytest.mark.parametrize(("found", "fits"), [("3.2.9", False), ("3.3.0", True), ("4.0.1", True), ("4.1.0", False)])
def test_mujoco_is_accepted_from_3_3_to_4_0(monkeypatch, found, fits):
    monkeypatch.setitem(sys.modules, "mujoco", types.SimpleNamespace(__version__=found))
    assert doctor.check_mujoco().ok is fits


@pytest.mark.parametrize(("physics", "ok"), [("3.3.0", True), ("3.16.0", True), ("3.17.0", None), ("4.0.0", None)])
def test_metaworld_is_held_against_mujoco(monkeypatch, physics, ok):
    monkeypatch.setitem(sys.modules, "metaworld", types.SimpleNamespace())
    versions(monkeypatch, metaworld="3.1.1", mujoco=physics)
    assert doctor.check_metaworld().ok is ok


def test_old_zarr_is_refused(monkeypatch):
    versions(monkeypatch, zarr="1.9")
    assert not doctor.check_zarr().ok


def test_robomimic_without_six_says_so(monkeypatch):
    versions(monkeypatch, robomimic="0.3.0")
    assert doctor.check_robomimic().advice == "pip install six"


@pytest.mark.parametrize(
    ("gl", "ok", "advice"),
    [
        ({"chosen": "egl", "backends": {"egl": "works", "osmesa": "absent"}, "mend": ""}, True, ""),
        ({"chosen": "", "backends": {"egl": "absent"}, "mend": "apt-get install libegl1"}, None, "install libegl1"),
        ({"chosen": "egl", "backends": {"egl": "absent", "osmesa": "works"}, "mend": ""}, None, "unset MUJOCO_GL"),
    ],
)
def test_missing_gl_costs_videos_only(monkeypatch, gl, ok, advice):
    monkeypatch.setattr("trcl_envs.gl.gl_report", lambda: gl)
    check = doctor.check_rendering()
    assert check.ok is ok
    assert advice in check.advice


def test_little_memory_and_little_disk_are_faults(monkeypatch):
    monkeypatch.setattr(doctor, "_memory", lambda: 2.0)
    assert doctor.check_machine().ok is False
    monkeypatch.setattr(doctor, "_memory", lambda: 24.0)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 * 2**30))
    assert "disk" in doctor.check_machine().advice


def test_threads_beside_other_work_get_advice(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(get_num_threads=lambda: 2))
    monkeypatch.setattr(doctor, "_cores", lambda: 2)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (1.8, 0.0, 0.0))
    assert "OMP_NUM_THREADS=1" in doctor.check_threads().advice
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert doctor.check_threads().ok is True


def test_gpu_physics_that_is_not_installed_is_no_fault(monkeypatch):
    versions(monkeypatch)
    check = doctor.check_gpu_physics()
    assert check.ok is None
    assert check.advice.endswith("./scripts/setup --gpu")


def test_gpu_physics_says_what_is_missing(monkeypatch):
    versions(monkeypatch, **{"mujoco-warp": "4.0.0", "mujoco": "4.0.0", "warp-lang": "1.19.0"})
    gpu = importlib.import_module("trcl_envs.gpu")
    monkeypatch.setattr(gpu, "import_warp", lambda device: (None, None))
    monkeypatch.setattr(gpu, "has_cuda", lambda warp: False)
    assert "no CUDA device" in doctor.check_gpu_physics().found
    monkeypatch.setattr(gpu, "has_cuda", lambda warp: True)
    assert doctor.check_gpu_physics() == Check("gpu physics", True, "mujoco-warp 4.0.0, mujoco 4.0.0, warp 1.19.0")

    def refuse(device):
        raise SimulationError("wrong MuJoCo")

    monkeypatch.setattr(gpu, "import_warp", refuse)
    check = doctor.check_gpu_physics()
    assert check.ok is None
    assert check.found.endswith("wrong MuJoCo")
    assert check.advice.endswith("./scripts/setup --gpu")
