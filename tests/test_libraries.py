"""Which shared libraries are loaded for DALI, on made-up folders and without a driver."""

from __future__ import annotations

import ctypes
import importlib.util
from configparser import ConfigParser
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from mgs_dali import libraries
from mgs_dali.libraries import cuda_library_files, driver_is_here, load_cuda_libraries

CUDA_13 = ["cu13/lib/libnppc.so.13", "cu13/lib/libnppicc.so.13", "cu13/lib/libnppig.so.13", "cu13/lib/libcufft.so.12"]
CUDA_12 = ["npp/lib/libnppc.so.12", "npp/lib/libnppicc.so.12", "npp/lib/libnppig.so.12", "cufft/lib/libcufft.so.11"]
# Wheels of the same folders that are not needed, or have similar names.
OTHERS = [
    "cu13/lib/libcudart.so.13",
    "cu13/lib/libnppidei.so.13",
    "cu13/lib/libcufftw.so.12",
    "npp/lib/libnppist.so.12",
]


def make_files(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("wheels", [CUDA_13, CUDA_12], ids=["cuda130", "cuda120"])
def test_finds_the_libraries_of_the_wheels_in_order(tmp_path: Path, wheels: list[str]) -> None:
    folder = make_files(tmp_path, [*reversed(wheels), *OTHERS])
    assert cuda_library_files([folder]) == [folder / name for name in wheels]


def test_looks_in_every_part_of_the_namespace(tmp_path: Path) -> None:
    first = make_files(tmp_path / "first", [CUDA_13[3]])
    second = make_files(tmp_path / "second", CUDA_13[:3])
    found = cuda_library_files([first, second])
    assert found == [*(second / name for name in CUDA_13[:3]), first / CUDA_13[3]]


def test_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    assert cuda_library_files([tmp_path, tmp_path / "missing"]) == []
    assert cuda_library_files([]) == []


@pytest.mark.parametrize(
    ("files", "library", "is_here"),
    [(["version"], False, True), (["nvidiactl"], False, True), ([], True, True), ([], False, False)],
    ids=["kernel module", "device", "library", "nothing"],
)
def test_the_driver_is_found_by_any_of_its_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], library: bool, is_here: bool
) -> None:
    make_files(tmp_path, files)
    assert all(file.is_absolute() for file in libraries._DRIVER_FILES)
    monkeypatch.setattr(libraries, "_DRIVER_FILES", (tmp_path / "version", tmp_path / "nvidiactl"))

    def load(name: str) -> None:
        assert name == "libcuda.so.1"
        if not library:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert driver_is_here() == is_here


def test_the_extras_do_not_require_them() -> None:
    setup = ConfigParser()
    setup.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = {name: extras[name].split() for name in ("cuda130", "cuda120")}
    assert wanted == {"cuda130": ["nvidia-dali-cuda130>=1.53"], "cuda120": ["nvidia-dali-cuda120>=1.53"]}


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The libraries loaded while the test runs, and how; the wheels are in ``tmp_path``."""
    calls: list[tuple[str, Any]] = []
    spec = ModuleSpec("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(make_files(tmp_path, CUDA_13))]
    monkeypatch.setattr(importlib.util, "find_spec", {"nvidia": spec}.get)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, mode: calls.append((name, mode)))
    return calls


def test_nothing_is_loaded_without_a_driver(loaded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "driver_is_here", lambda: False)
    load_cuda_libraries()
    assert loaded == []


def test_the_libraries_are_loaded_with_a_driver(
    tmp_path: Path, loaded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "driver_is_here", lambda: True)
    load_cuda_libraries()
    # Global, or the name that DALI opens later is not resolved to what is already in the process.
    assert loaded == [(str(tmp_path / name), ctypes.RTLD_GLOBAL) for name in CUDA_13]


def test_nothing_is_loaded_where_no_wheels_are(loaded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "driver_is_here", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    load_cuda_libraries()
    assert loaded == []
