"""NVIDIA's shared libraries that DALI opens by name when something calls them, and does not bring along.

Nothing here calls them with DALI 2.4 (NPP is used by its operators debayer and remap, cuFFT by its spectrograms): they
are not required, and loaded where they happen to be installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cuda_library_files", "driver_is_here", "load_cuda_libraries"]

# libnppc first: the other two need it. The folders are those of the CUDA 13 and CUDA 12 wheels.
_LIBRARIES = ("libnppc", "libnppicc", "libnppig", "libcufft")
_FOLDERS = ("cu13/lib", "npp/lib", "cufft/lib")
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))


def driver_is_here() -> bool:
    """Whether NVIDIA's driver is on this machine.

    Its file in /proc is missing in some containers' sandboxes, which show its device or its library all the same.
    """
    if any(file.exists() for file in _DRIVER_FILES):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def cuda_library_files(package_folders: Iterable[Path]) -> list[Path]:
    """The libraries that the nvidia-npp and nvidia-cufft wheels installed, in the order to load them.

    Args:
        package_folders: where the ``nvidia`` namespace package has its parts.
    """
    folders = [part / folder for part in package_folders for folder in _FOLDERS]
    return [file for name in _LIBRARIES for folder in folders for file in sorted(folder.glob(f"{name}.so.*"))]


def load_cuda_libraries() -> None:
    """Load those libraries into this process, so that DALI finds them by name without ``LD_LIBRARY_PATH``.

    Does nothing on a machine without NVIDIA's driver, and leaves out what is not installed: a CUDA toolkit of the
    system serves as well, and DALI names a library that it cannot find.
    """
    if not driver_is_here():
        return
    package = importlib.util.find_spec("nvidia")
    for file in cuda_library_files(map(Path, (package and package.submodule_search_locations) or ())):
        ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
