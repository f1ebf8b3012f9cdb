"""NVIDIA's driver as this machine or container shows it: what is found, and what that means for decoding.

    python -m mgs_dali.driver        # asks the driver's libraries, and prints what they say as JSON

Nothing here needs a package. The libraries are asked in a process of their own: a driver that is not well may hang or
crash whoever asks it.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["OLDEST_DRIVER", "Driver", "Trouble", "ask_libraries", "find_driver", "trouble"]

OLDEST_DRIVER: Final = {13: "580", 12: "525.60"}
"""Of CUDA's major version, by NVIDIA's notes on minor version compatibility."""

_SECONDS_TO_ANSWER = 30.0
_NVIDIA = "0x10de"
_DISPLAYS = ("0x0300", "0x0302")
"""PCI classes of graphics cards, with and without an output."""


@dataclass(frozen=True)
class Driver:
    """What is found of it, without judgement."""

    num_cards: int
    """NVIDIA's graphics cards on the PCI bus, which containers see too."""
    version: str
    """Of the kernel's module, such as "580.65.06"; empty without one."""
    has_device_files: bool
    """/dev/nvidiactl, which a container has only where it was given a GPU."""
    libcuda: str = "not asked"
    """Why libcuda.so.1 does not load; empty where it does."""
    init_status: int = 0
    """What cuInit answers: 0, or a CUDA error."""
    cuda: int = 0
    """The newest CUDA that the driver knows, as 1000 x major + 10 x minor."""
    gpus: list[str] = field(default_factory=list)
    """The names of those that may be used."""
    context_status: int = 0
    """What making a context on the first of them answers."""
    libnvcuvid: str = "not asked"
    """Why libnvcuvid.so.1 does not load; empty where it does."""
    codecs: list[str] | None = None
    """Those that NVDEC decodes (8 bit, 4:2:0); None where it could not be asked."""


@dataclass(frozen=True)
class Trouble:
    """What keeps the GPU from being used, and what to do."""

    what: str
    found: str
    do: str


def find_driver(*, root: Path = Path("/"), timeout_s: float = _SECONDS_TO_ANSWER) -> Driver:
    """Look for the driver's files, and ask its libraries where there are any.

    Args:
        root: where /proc, /dev and /sys are, for tests.
        timeout_s: for the libraries to answer.
    """
    files = Driver(
        num_cards=_num_cards(root),
        version=_module_version(root),
        has_device_files=(root / "dev/nvidiactl").exists(),
    )
    if not files.version or not files.has_device_files:
        return files
    command = [sys.executable, "-m", "mgs_dali.driver"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return Driver(**{**asdict(files), "libcuda": f"it did not answer for {timeout_s:.0f} s"})
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return Driver(
            **{**asdict(files), "libcuda": f"asking it ended with exit code {done.returncode} {last}".rstrip()}
        )
    return Driver(**{**asdict(files), **json.loads(done.stdout)})


def _num_cards(root: Path) -> int:
    cards = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        cards += vendor == _NVIDIA and kind.startswith(_DISPLAYS)
    return cards


def _module_version(root: Path) -> str:
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    found = re.search(r"Kernel Module\D*?(?:for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return found[1] if found else "unknown"


def ask_libraries() -> dict[str, Any]:
    """What the driver's libraries say, as the fields of :class:`Driver` from ``libcuda`` on."""
    said: dict[str, Any] = {"libcuda": "", "libnvcuvid": _why_not_loaded("libnvcuvid.so.1")}
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return {**said, "libcuda": str(error)}
    said["init_status"] = cuda.cuInit(0)
    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) == 0:
        said["cuda"] = number.value
    if said["init_status"] != 0:
        return said
    cuda.cuDeviceGetCount(ctypes.byref(number))
    name = ctypes.create_string_buffer(256)
    said["gpus"] = []
    for ordinal in range(number.value):
        cuda.cuDeviceGetName(name, len(name), ordinal)
        said["gpus"].append(name.value.decode(errors="replace"))
    if not said["gpus"]:
        return said
    # The video library answers within a context. It is given back, although this process is about to end.
    context = ctypes.c_void_p()
    said["context_status"] = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    if said["context_status"] == 0 and not said["libnvcuvid"]:
        cuda.cuCtxSetCurrent(context)
        said["codecs"] = _codecs()
        cuda.cuDevicePrimaryCtxRelease_v2(0)
    return said


def _why_not_loaded(library: str) -> str:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return ""


def _codecs() -> list[str] | None:
    try:
        from .load.nvdec import ask_driver, limits_of  # noqa: PLC0415  (needs PyAV)
    except ImportError:  # of PyAV or NumPy, which is another line of the doctor's
        return None
    try:
        taken = limits_of(ask_driver())
    except RuntimeError:  # none
        return []
    return [codec for codec, chroma, bits in taken if (chroma, bits) == ("4:2:0", 8)]


def trouble(driver: Driver, *, cuda_major: int | None, in_container: bool) -> Trouble | None:
    """What keeps the GPU of this machine from decoding; None where nothing does, or where there is no GPU.

    Args:
        driver: what was found.
        cuda_major: that DALI was built for; None if it is not here.
        in_container: the advice is another there.
    """
    if not driver.version:
        if not driver.num_cards:
            return None
        cards = f"{driver.num_cards} NVIDIA GPU{'s' if driver.num_cards > 1 else ''} on the PCI bus, and no driver"
        where = "On the host, not in the container, install" if in_container else "Install"
        oldest = OLDEST_DRIVER.get(cuda_major or 13, OLDEST_DRIVER[13])
        return Trouble("driver", cards, f"{where} NVIDIA's driver, {oldest} or newer, and restart the machine.")
    module = f"kernel module {driver.version}"
    if not driver.has_device_files:
        if in_container:
            do = (
                "Start the container with a GPU: docker run --gpus all (the host needs NVIDIA's container toolkit); in "
                "Kubernetes ask for nvidia.com/gpu; in Slurm for --gres=gpu."
            )
        else:
            do = "Run nvidia-smi once as root, or nvidia-modprobe -u -c 0: it makes the device files."
        return Trouble("driver", f"{module}, but no /dev/nvidiactl: no GPU was given to this machine's processes", do)
    if driver.libcuda:
        if in_container:
            do = "Start the container with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,video,utility."
        else:
            do = f"Install the driver's libraries of the module's version, {driver.version}, and run: ldconfig"
        return Trouble("driver", f"{module}, but libcuda.so.1 is not usable: {driver.libcuda}", do)
    known = f"CUDA {driver.cuda // 1000}.{driver.cuda % 1000 // 10}"
    if cuda_major and driver.cuda and driver.cuda // 1000 < cuda_major:
        update = f"update the driver to {OLDEST_DRIVER[cuda_major]} or newer" if cuda_major in OLDEST_DRIVER else ""
        older = driver.cuda // 1000
        other = f"install the build for CUDA {older}: CUDA={older}0 make, or pip install 'mgs-dali[cuda{older}0]'"
        do = " or ".join(filter(None, (update, other if older in OLDEST_DRIVER else "")))
        found = f"driver {driver.version} knows {known}, and DALI here is built for CUDA {cuda_major}"
        return Trouble("driver", found, do[0].upper() + do[1:] + ".")
    if driver.init_status or driver.context_status:
        status = driver.init_status or driver.context_status
        return Trouble("driver", f"driver {driver.version}: CUDA error {status}, {_meaning(status)}", _remedy(status))
    if not driver.gpus:
        return Trouble("driver", f"driver {driver.version}, and no GPU that may be used", _remedy(100))
    if driver.libnvcuvid:
        if in_container:
            do = "Start the container with NVIDIA_DRIVER_CAPABILITIES=compute,video,utility: the default has no video."
        else:
            do = f"Install the driver's decode package (libnvidia-decode-* on Ubuntu) of version {driver.version}."
        return Trouble("NVDEC", f"libnvcuvid.so.1 does not load: {driver.libnvcuvid}", do)
    if driver.codecs == []:
        return Trouble(
            "NVDEC",
            f"the decoder of {driver.gpus[0]} takes no codec",
            "Use a GPU with NVDEC and all of it (MIG slices may have none: see nvidia-smi -L); route='host' works.",
        )
    return None


_ERRORS: Final = {
    2: ("out of memory", "Other processes fill the GPU: see nvidia-smi."),
    46: ("the GPU is not to be had", "Another process has it for itself (compute mode): see nvidia-smi -q -d COMPUTE."),
    100: (
        "no device",
        "CUDA_VISIBLE_DEVICES may hide all GPUs (unset it), or the GPU was lost: see nvidia-smi and dmesg.",
    ),
    101: ("no such device", "CUDA_VISIBLE_DEVICES names a GPU that is not here: see nvidia-smi -L."),
    802: (
        "the system is not ready",
        "On machines with NVSwitch start the service nvidia-fabricmanager.",
    ),
    803: (
        "the driver's libraries and its kernel module are of different versions",
        "Restart the machine after a driver's update; in a container delete driver libraries installed in the image.",
    ),
    804: (
        "this GPU has no forward compatibility",
        "Take CUDA's compat folder off LD_LIBRARY_PATH, or update the driver on the host.",
    ),
}


def _meaning(status: int) -> str:
    return _ERRORS.get(status, ("which NVIDIA's list of CUresult explains", ""))[0]


def _remedy(status: int) -> str:
    return _ERRORS.get(status, ("", "See nvidia-smi and dmesg; a restart of the machine often helps."))[1]


if __name__ == "__main__":
    print(json.dumps(ask_libraries()))
