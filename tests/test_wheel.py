"""What people install: the wheel, away from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools")

ROOT = Path(__file__).parents[1]
NOT_FROM_THE_CHECKOUT = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import mgs_dali
assert mgs_dali.__file__.startswith({installed!r}), mgs_dali.__file__
"""
"""An editable installation would lend what the wheel lacks."""
WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy of the sources, since building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "mgs_dali", source / "mgs_dali", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder that holds the wheel's content and nothing else."""
    folder = wheel.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True)
    return folder


def run(program: str, installed: Path, *, cwd: Path, blocked: tuple[str, ...] = ()) -> str:
    """Run a program with the wheel and what else is installed, but not the checkout."""
    start = WITHOUT.format(blocked=blocked) + NOT_FROM_THE_CHECKOUT.format(installed=str(installed))
    done = subprocess.run(
        [sys.executable, "-c", start + program],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_holds_all_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (file for file in (ROOT / "mgs_dali").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    assert found == {file.relative_to(ROOT).as_posix() for file in files}


def test_every_module_is_imported(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nvidia.dali")
    pytest.importorskip("matplotlib")
    program = """
import importlib, pkgutil
names = [m.name for m in pkgutil.walk_packages(mgs_dali.__path__, "mgs_dali.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    files = [file for file in (ROOT / "mgs_dali").rglob("*.py") if file.name != "__main__.py"]
    assert int(run(program, installed, cwd=tmp_path)) == len(files) - 1  # the package itself


def test_the_first_loader_of_the_readme(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nvidia.dali")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    block = next(block for block in blocks if "ClipLoader(" in block)
    demo = "from mgs_dali.demo import make_demo\nmake_demo('demo', num_train=12, num_val=16, progress=False)\n"
    printed = run(demo + block, installed, cwd=tmp_path).splitlines()
    promised = re.findall(r"^\s*print\(.*\)\s*# (.*)$", block, re.MULTILINE)
    assert promised
    assert printed[-len(promised) :] == promised


@pytest.mark.parametrize(
    ("blocked", "program", "hint"),
    [
        (("torch", "torchvision"), "from mgs_dali import ClipLoader", "PyTorch is not installed. Install it with: pip"),
        (("nvidia",), "from mgs_dali import graph", "NVIDIA DALI is not installed. Install it with: pip install"),
        (("matplotlib",), "import mgs_dali.look.plot", "matplotlib, which is not installed. Install it with: pip"),
    ],
    ids=["torch", "dali", "matplotlib"],
)
def test_what_is_missing_is_one_line(
    installed: Path, tmp_path: Path, blocked: tuple[str, ...], program: str, hint: str
) -> None:
    catching = f"""
from mgs_dali import Clips, MotionGuided, MotionIndex, Uniform, open_video, read_annotations
try:
    {program}
except ModuleNotFoundError as error:
    print(error)
"""
    (line,) = run(catching, installed, cwd=tmp_path, blocked=blocked).splitlines()
    assert hint in line
