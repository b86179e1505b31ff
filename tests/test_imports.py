"""The house rules that a parser can hold: who imports whom, how long files are, which words the core may use."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {"trcl_policy": ROOT / "trcl_policy", "trcl_envs": ROOT / "envs" / "trcl_envs"}

# Folder of trcl_policy -> parts of ours that it may import. Files directly in trcl_policy/ are the top, which imports
# all: there concrete simulators are chosen.
LAYERS = {
    "continual": set(),
    "diffusion": {"continual"},
    "policy": {"continual", "diffusion", "data"},
    "images": {"continual", "diffusion", "data"},
    "data": {"config"},
    "rollout": {"continual", "diffusion", "policy", "images", "data", "trcl_envs.interface"},
    "report": {"continual", "diffusion", "policy", "images", "data", "rollout"},
}
TOP = {"top", "commands"}  # folders that count as the top
BARE = {"files"}  # helpers at the top that import nothing of ours, so that every layer but the core may import them
CORE_NEEDS = {"torch"}  # all that the core may import besides the standard library
HEAVY = ("metaworld", "mujoco_warp", "warp", "robosuite", "ray", "h5py", "av")
UNSAFE = ("pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib")
DOMAIN_WORDS = re.compile(r"image|pixel|trajector|robot|\bobs\b|observation|\baction", re.IGNORECASE)
MOST_LINES = 300
LONG_FILES: dict[str, str] = {}  # path -> why it is one piece


def files() -> list[Path]:
    return sorted(path for folder in SOURCES.values() for path in folder.rglob("*.py"))


def module_name(path: Path) -> str:
    package, folder = next((name, folder) for name, folder in SOURCES.items() if path.is_relative_to(folder))
    return ".".join([package, *path.relative_to(folder).with_suffix("").parts])


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that ``source`` imports; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) + "." if node.level else ""
            parent = f"{base}{node.module or ''}".rstrip(".")
            yield from ((node.lineno, f"{parent}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            constants = (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))
            yield from ((node.lineno, name) for name in constants)


def law_breaks(source: str, module: str) -> list[str]:
    """Return one line for every import in ``source`` that the import law forbids to ``module``."""
    package, *rest = module.split(".")
    layer = rest[0] if len(rest) > 1 else "top"
    breaks = []
    for line, name in imported(source, module):
        target = name.split(".")
        if target[0] in UNSAFE:
            breaks.append(f"{module}:{line} imports {target[0]}, which can run what a file contains")
        if layer == "continual" and target[0] not in {*SOURCES, *CORE_NEEDS, *UNSAFE, *sys.stdlib_module_names}:
            breaks.append(f"{module}:{line} imports {target[0]}: the core needs torch only")
        if target[0] not in SOURCES or (target[0] == package and target[1:2] == rest[:1]):
            continue
        if package == "trcl_envs":
            if target[0] == "trcl_policy":
                breaks.append(f"{module}:{line} imports {name}: trcl_envs knows nothing of trcl_policy")
        elif not _allowed(layer, rest, target):
            breaks.append(f"{module}:{line} imports {name}: not allowed in {layer}")
    return breaks


def _allowed(layer: str, rest: list[str], target: list[str]) -> bool:
    if layer in TOP:
        return rest[0] not in BARE
    part = ".".join(target[:2]) if target[0] == "trcl_envs" else target[1] if len(target) > 1 else "top"
    return part in LAYERS[layer] or (part in BARE and layer != "continual")


def heavy_breaks(sources: dict[str, str]) -> list[str]:
    """Return one line for every heavy package that more than one module (name -> source) imports."""
    users: dict[str, set[str]] = {}
    for module, source in sources.items():
        if module != "trcl_policy.doctor":  # asks whether each of them loads
            for _, name in imported(source, module):
                users.setdefault(name.split(".")[0], set()).add(module)
    return [f"{name} is imported in {sorted(users[name])}" for name in HEAVY if len(users.get(name, ())) > 1]


def domain_words(source: str) -> list[str]:
    """Return ``line number: line`` of every line that names the domain."""
    return [f"{number}: {line}" for number, line in enumerate(source.splitlines(), 1) if DOMAIN_WORDS.search(line)]


def test_every_import_keeps_the_law():
    breaks = [line for path in files() for line in law_breaks(path.read_text(), module_name(path))]
    assert not breaks, "\n".join(breaks)


def test_every_folder_has_its_place_in_the_law():
    folders = {path.parent.name for path in SOURCES["trcl_policy"].glob("*/__init__.py")}
    assert folders <= LAYERS.keys() | TOP, f"name the layers below {sorted(folders - LAYERS.keys() - TOP)} in LAYERS"


def test_each_heavy_package_is_wrapped_in_one_file():
    breaks = heavy_breaks({module_name(path): path.read_text() for path in files()})
    assert not breaks, "\n".join(breaks)


def test_files_are_short_or_say_why():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files()}
    long = {path: length for path, length in lengths.items() if length > MOST_LINES and path not in LONG_FILES}
    assert not long, f"over {MOST_LINES} lines without a reason in LONG_FILES: {long}"


def test_core_does_not_name_its_domains():
    found = {path.name: domain_words(path.read_text()) for path in (SOURCES["trcl_policy"] / "continual").rglob("*.py")}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trcl_policy.continual.learner", "from trcl_policy.diffusion import process"),
        ("trcl_policy.continual.learner", "from ..policy.windows import Windows"),
        ("trcl_policy.continual.learner", "from trcl_policy import load_policy"),
        ("trcl_policy.continual.learner", "def f():\n    import trcl_policy.run"),
        ("trcl_policy.continual.learner", "import importlib\nimportlib.import_module('trcl_policy.policy')"),
        ("trcl_policy.continual.learner", "import trcl_envs.interface"),
        ("trcl_policy.continual.learner", "from trcl_policy import files"),
        ("trcl_policy.continual.learner", "import mujoco"),
        ("trcl_policy.diffusion.nets", "import trcl_policy.images.tasks"),
        ("trcl_policy.policy.windows", "from trcl_policy.images import scores"),
        ("trcl_policy.policy.windows", "from trcl_policy.rollout.evaluate import evaluate"),
        ("trcl_policy.rollout.workers", "from trcl_envs import cpu"),
        ("trcl_policy.rollout.workers", "from trcl_envs.metaworld import make"),
        ("trcl_policy.rollout.workers", "import trcl_policy.report.page"),
        ("trcl_policy.report.page", "from trcl_policy import config"),
        ("trcl_policy.report.page", "from trcl_policy.commands import run"),
        ("trcl_policy.data.store", "from trcl_policy.policy import windows"),
        ("trcl_policy.data.store", "import pickle"),
        ("trcl_policy.files", "from trcl_policy.data import store"),
        ("trcl_envs.cpu", "from trcl_policy.data.store import EpisodeStore"),
    ],
)
def test_planted_import_is_found(module, source):
    assert len(law_breaks(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trcl_policy.continual.learner", "import torch\nfrom .params import dot\nimport trcl_policy.continual.fisher"),
        ("trcl_policy.policy.windows", "from trcl_policy.diffusion.nets import Unet\nfrom ..continual import model"),
        ("trcl_policy.rollout.workers", "from trcl_envs.interface import Step\nimport trcl_policy.policy.controller"),
        ("trcl_policy.report.page", "from trcl_policy.continual.metrics import forgetting"),
        ("trcl_policy.data.store", "from trcl_policy.config import DataConfig\nfrom trcl_policy.files import write"),
        ("trcl_policy.run", "from trcl_envs import cpu, metaworld\nfrom trcl_policy.report import page"),
        ("trcl_policy.commands.learning", "from trcl_envs import cpu\nfrom trcl_policy.run import run"),
        ("trcl_envs.metaworld", "import metaworld\nfrom trcl_envs.interface import Step\nfrom . import cpu"),
    ],
)
def test_lawful_imports_pass(module, source):
    assert law_breaks(source, module) == []


def test_planted_second_wrapper_is_found():
    sources = {"trcl_policy.data.robomimic": "import h5py", "trcl_policy.doctor": "import h5py"}
    assert not heavy_breaks(sources)
    assert heavy_breaks(sources | {"trcl_policy.data.store": "def read():\n    from h5py import File"})


def test_planted_domain_word_is_found():
    assert domain_words("x = 1\n# the Robot's path\ndef f(obs): ...") == ["2: # the Robot's path", "3: def f(obs): ..."]
    assert not domain_words("transaction = jobs  # reaction")


@pytest.mark.parametrize(
    "code",
    [
        "import trcl_policy",
        "import trcl_envs",
        pytest.param(
            "import runpy, sys\nsys.argv = ['trcl', '--help']\n"
            "try: runpy.run_module('trcl_policy', run_name='__main__')\nexcept SystemExit: pass",
            marks=pytest.mark.skipif(not (SOURCES["trcl_policy"] / "__main__.py").exists(), reason="no commands yet"),
            id="trcl --help",
        ),
    ],
)
def test_heavy_packages_are_imported_late(code):
    heavy = ["torch", "diffusers", "mujoco", "robomimic", "zarr", "matplotlib", "scipy", "pyarrow", *HEAVY]
    ask = f"\nimport json\nprint('\\n' + json.dumps([name for name in {heavy} if name in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", f"import sys\n{code}{ask}"], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout.splitlines()[-1]) == []
