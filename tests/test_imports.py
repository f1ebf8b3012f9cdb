"""What needs PyTorch or DALI, and what does not."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEITHER = [
    "decode.cut",
    "decode.frames",
    "decode.packets",
    "index.indexing",
    "lists.read",
    "load.clip",
    "load.plan",
    "load.sources",
    "motion.measure",
    "sampling",
    "video.file",
    "views.crops",
    "views.protocols",
    "views.rand_augment",
]

ORDER = [
    "files generator libraries machine",
    "sampling",
    "views",
    "decode",
    "motion",
    "video",
    "lists",
    "index",
    "graph",
    "load",
    "look demo mmaction2 driver",
    "doctor",
    "cli",
    "__main__",
]
"""The rooms of the package, from below: each uses only those before it, and within a line none another."""

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in {blocked!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(program: str, *, blocked: tuple[str, ...] = ()) -> str:
    """Run a program in a process of its own, where the blocked packages are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def submodules() -> list[str]:
    package = ROOT / "mgs_dali"
    files = [file.relative_to(package) for file in package.rglob("*.py") if file.stem != "__init__"]
    return sorted(".".join(file.with_suffix("").parts) for file in files)


def test_importing_the_package_is_light() -> None:
    program = """
    import mgs_dali
    heavy = ["torch", "torchvision", "nvidia.dali", "av", "pyarrow", "matplotlib", "lightning"]
    print([name for name in heavy if name in sys.modules])
    """
    assert run("\n".join(line.strip() for line in program.splitlines())).strip() == "[]"


@pytest.mark.parametrize("name", NEITHER)
def test_modules_that_need_neither(name: str) -> None:
    found = run(f"import mgs_dali.{name}\nprint('torch' in sys.modules, 'nvidia.dali' in sys.modules)")
    assert found.split() == ["False", "False"]


@pytest.mark.parametrize("blocked", [("torch", "torchvision", "lightning"), ("nvidia",), ("torch", "nvidia")], ids=str)
def test_modules_that_are_imported_without_torch_and_dali(blocked: tuple[str, ...]) -> None:
    others = ["graph", "load.pipelines", "load.loader", "load.routes"]
    without = "look" if find_spec("matplotlib") is None else ""
    names = [name for name in submodules() if name not in others and name.partition(".")[0] != without]
    assert set(NEITHER) < set(names)
    run("".join(f"import mgs_dali.{name}\n" for name in names), blocked=blocked)


def test_what_is_public_is_there_without_torch_and_dali() -> None:
    program = "from mgs_dali import Clips, MotionGuided, Uniform, read_annotations\nprint(MotionGuided(3))"
    assert "num_segments=3" in run(program, blocked=("torch", "nvidia"))


def test_names_that_are_not_there() -> None:
    program = "import mgs_dali\ntry:\n    mgs_dali.Nothing\nexcept AttributeError as error:\n    print(error)"
    assert "module 'mgs_dali' has no attribute 'Nothing'" in run(program)


def test_public_names_are_all_there() -> None:
    pytest.importorskip("torch")
    program = (
        "from mgs_dali import *\nimport mgs_dali\nprint([name for name in mgs_dali.__all__ if name not in globals()])"
    )
    assert run(program).strip() == "[]"


@pytest.mark.parametrize("name", ["graph", "load.pipelines"])
def test_dali_that_is_not_installed(name: str) -> None:
    program = f"""
try:
    import mgs_dali.{name}
except ModuleNotFoundError as error:
    print(error.name, error)
"""
    found = run(program, blocked=("nvidia",))
    assert found.startswith("nvidia.dali NVIDIA DALI is not installed. Install it with: pip install 'mgs-dali[cuda130")
    assert "mgs-dali[cuda120]" in found


def test_the_loader_says_that_dali_is_not_installed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    program = f"""
from mgs_dali import ClipLoader, Uniform, read_annotations
clips = read_annotations({str(tmp_path / "list.txt")!r}, root={str(tmp_path)!r})
try:
    ClipLoader(clips, sampler=Uniform(), batch_size=1, training=False)
except ModuleNotFoundError as error:
    print(error)
"""
    assert "NVIDIA DALI is not installed. Install it with: pip install" in run(program, blocked=("nvidia.dali",))


def test_the_loader_says_that_torch_is_not_installed() -> None:
    program = """
try:
    from mgs_dali import ClipLoader
except ModuleNotFoundError as error:
    print(error)
"""
    assert "torch" in run(program, blocked=("torch",))


def test_pipelines_need_no_torch() -> None:
    run("import mgs_dali.load.pipelines\nassert 'torch' not in sys.modules", blocked=("torch", "torchvision"))


def imports_of(file: Path) -> set[str]:
    """The modules of the package that a file imports anywhere, as "load.plan"."""
    package = ROOT / "mgs_dali"
    here = file.relative_to(package).with_suffix("").parts[:-1]
    modules, found = set(submodules()), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom) or (
            node.level == 0 and (node.module or "").split(".")[0] != "mgs_dali"
        ):
            continue
        base = list(here[: len(here) - node.level + 1]) if node.level else []
        path = [*base, *[part for part in (node.module or "").split(".") if part and part != "mgs_dali"]]
        for alias in node.names:
            full = ".".join([*path, alias.name])
            found.add(full if full in modules else ".".join(path))
    return found - {""}


def test_no_import_runs_back_up_and_none_goes_in_circles() -> None:
    package = ROOT / "mgs_dali"
    level = {room: place for place, line in enumerate(ORDER) for room in line.split()}
    files = [file for file in package.rglob("*.py") if file != package / "__init__.py"]
    below: dict[str, set[str]] = {}
    for file in files:
        name = ".".join(file.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        room = name.partition(".")[0]
        below[name] = imports_of(file)
        for other in below[name]:
            other_room = other.partition(".")[0]
            assert other_room == room or level[other_room] < level[room], f"{name} imports {other}"
    assert {name.partition(".")[0] for name in below} == set(level)
    while below:
        free = [name for name, others in below.items() if not others & (below.keys() - {name})]
        assert free, f"in circles: {below}"
        for name in free:
            del below[name]


def test_nothing_of_the_package_but_files_is_used_by_the_models() -> None:
    for file in (ROOT / "models").glob("*.py"):
        assert set(re.findall(r"(?m)^\s*(?:from|import) (mgs_dali[\w.]*)", file.read_text())) <= {"mgs_dali.files"}
