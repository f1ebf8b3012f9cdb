"""What is told of a driver: from stand-ins of its files and libraries, and by pure judgement of what was found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mgs_dali.driver import Driver, find_driver, trouble

ROOT = Path(__file__).parents[1]
GOOD = Driver(
    num_cards=1,
    version="580.65.06",
    has_device_files=True,
    libcuda="",
    cuda=13000,
    gpus=["H100"],
    libnvcuvid="",
    codecs=["h264", "hevc"],
)
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
CARD = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n"}
MODULE = {**CARD, "proc/driver/nvidia/version": OPEN}
ALL_FILES = {**MODULE, "dev/nvidiactl": ""}


def root(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    sound = {
        "sys/bus/pci/devices/0000:00:00.0/vendor": "0x8086\n",
        "sys/bus/pci/devices/0000:00:00.0/class": "0x060000\n",
    }
    # The audio function of a graphics card is none, and a device may have no such files.
    sound |= {"sys/bus/pci/devices/1/vendor": "0x10de\n", "sys/bus/pci/devices/1/class": "0x040300\n"}
    sound |= {"sys/bus/pci/devices/2/vendor": "0x10de\n"}
    found = find_driver(root=root(tmp_path, sound))
    assert found == Driver(num_cards=0, version="", has_device_files=False)
    assert trouble(found, cuda_major=13, in_container=False) is None


@pytest.mark.parametrize(("text", "version"), [(CLOSED, "535.183.01"), (OPEN, "580.65.06"), ("?", "unknown")])
def test_versions_of_the_kernels_module(tmp_path: Path, text: str, version: str) -> None:
    assert find_driver(root=root(tmp_path, {"proc/driver/nvidia/version": text})).version == version


@pytest.mark.parametrize(
    ("files", "in_container", "found", "do"),
    [
        (CARD, False, "1 NVIDIA GPU on the PCI bus, and no driver", "Install NVIDIA's driver, 580 or newer"),
        (
            CARD,
            True,
            "1 NVIDIA GPU on the PCI bus, and no driver",
            "On the host, not in the container, install NVIDIA's",
        ),
        (MODULE, True, "580.65.06, but no /dev/nvidiactl", "docker run --gpus all"),
        (MODULE, False, "580.65.06, but no /dev/nvidiactl", "nvidia-modprobe"),
    ],
)
def test_files_that_are_missing(
    tmp_path: Path, files: Mapping[str, str], in_container: bool, found: str, do: str
) -> None:
    told = trouble(find_driver(root=root(tmp_path, files)), cuda_major=13, in_container=in_container)
    assert told is not None
    assert told.what == "driver"
    assert found in told.found
    assert do in told.do


# --- judgement --------------------------------------------------------------------------------------------------------


def test_nothing_is_wrong() -> None:
    assert trouble(GOOD, cuda_major=13, in_container=False) is None
    assert trouble(replace(GOOD, cuda=12020, version="535.1"), cuda_major=12, in_container=False) is None
    assert trouble(replace(GOOD, codecs=None), cuda_major=None, in_container=False) is None


@pytest.mark.parametrize(
    ("changes", "what", "found", "do"),
    [
        (
            {"version": "535.183.01", "cuda": 12020},
            "driver",
            "driver 535.183.01 knows CUDA 12.2, and DALI here is built for CUDA 13",
            "Update the driver to 580 or newer or install the build for CUDA 12: CUDA=120 make, or pip install "
            "'mgs-dali[cuda120]'.",
        ),
        ({"version": "470.1", "cuda": 11040}, "driver", "knows CUDA 11.4", "Update the driver to 580 or newer."),
        ({"libcuda": "no such file"}, "driver", "libcuda.so.1 is not usable: no such file", "ldconfig"),
        ({"init_status": 100}, "driver", "CUDA error 100, no device", "CUDA_VISIBLE_DEVICES"),
        (
            {"init_status": 803},
            "driver",
            "CUDA error 803, the driver's libraries and its kernel",
            "Restart the machine",
        ),
        ({"init_status": 802}, "driver", "CUDA error 802", "nvidia-fabricmanager"),
        ({"init_status": 804}, "driver", "CUDA error 804", "compat"),
        ({"init_status": 999}, "driver", "CUDA error 999", "nvidia-smi"),
        ({"context_status": 46}, "driver", "CUDA error 46", "compute mode"),
        ({"gpus": []}, "driver", "no GPU that may be used", "CUDA_VISIBLE_DEVICES"),
        ({"libnvcuvid": "no such file"}, "NVDEC", "libnvcuvid.so.1 does not load: no such file", "decode package"),
        ({"codecs": []}, "NVDEC", "the decoder of H100 takes no codec", "Use a GPU with NVDEC"),
    ],
)
def test_each_trouble_has_its_own_words(changes: dict[str, object], what: str, found: str, do: str) -> None:
    told = trouble(replace(GOOD, **changes), cuda_major=13, in_container=False)  # type: ignore[arg-type]
    assert told is not None
    assert told.what == what
    assert found in told.found
    assert do in told.do


@pytest.mark.parametrize("changes", [{"libcuda": "no such file"}, {"libnvcuvid": "no such file"}])
def test_in_a_container_it_is_a_capability(changes: dict[str, object]) -> None:
    told = trouble(replace(GOOD, **changes), cuda_major=13, in_container=True)  # type: ignore[arg-type]
    assert told is not None
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility" in told.do


# --- libraries --------------------------------------------------------------------------------------------------------

LIBCUDA = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags) {
    if (getenv("STAND_IN_CRASHES")) abort();
    if (getenv("STAND_IN_HANGS")) pause();
    return number("STAND_IN_INIT", 0);
}
int cuDriverGetVersion(int *version) { *version = number("STAND_IN_CUDA", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGetName(char *name, int size, int ordinal) { strncpy(name, "Stand-in", size); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int ordinal) { *context = 0; return number("STAND_IN_CONTEXT", 0); }
int cuCtxSetCurrent(void *context) { return 0; }
int cuDevicePrimaryCtxRelease_v2(int ordinal) { return 0; }
"""
# Offsets as in NVIDIA's cuviddec.h: codec, chroma and bits at 0, 4 and 8, the answer from 24 on.
LIBNVCUVID = """
#include <stdlib.h>
#include <stdint.h>
int cuvidGetDecoderCaps(void *caps) {
    int codec = ((int *)caps)[0];
    const char *text = getenv("STAND_IN_WITHOUT_CODEC");
    uint8_t *answer = (uint8_t *)caps + 24;
    answer[0] = !(text && (atoi(text) == codec || atoi(text) == 0));
    answer[1] = 1;
    *(uint16_t *)(answer + 2) = 1;
    *(uint32_t *)(answer + 4) = 8192; *(uint32_t *)(answer + 8) = 8192; *(uint32_t *)(answer + 12) = 262144;
    *(uint16_t *)(answer + 16) = 48; *(uint16_t *)(answer + 18) = 16;
    return 0;
}
"""
pytest_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, for libraries that stand in")


def build(folder: Path, name: str, code: str) -> None:
    (folder / "code.c").write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", str(folder / name), str(folder / "code.c")], check=True)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    build(folder, "libcuda.so.1", LIBCUDA)
    build(folder, "libnvcuvid.so.1", LIBNVCUVID)
    return folder


def ask(libraries: Path, files: Path, **environ: str) -> tuple[Driver, list[dict[str, str]]]:
    """What is found, and the doctor's lines about it, by a process that has these libraries."""
    program = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path\n"
        "from mgs_dali.doctor import check_gpu; from mgs_dali.driver import find_driver\n"
        "found = find_driver(root=Path(sys.argv[1]), timeout_s=float(sys.argv[2]))\n"
        "lines = check_gpu(found, cuda_major=13, in_container=True)\n"
        "print(json.dumps([asdict(found), [asdict(line) for line in lines]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(files), "2" if "STAND_IN_HANGS" in environ else "60"],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    found, lines = json.loads(done.stdout)
    return Driver(**found), lines


@pytest_cc
def test_a_driver_that_is_well(libraries: Path, tmp_path: Path) -> None:
    found, lines = ask(libraries, root(tmp_path, ALL_FILES))
    assert (found.cuda, found.gpus, found.libnvcuvid) == (13000, ["Stand-in"] * 2, "")
    assert [(line["name"], line["level"]) for line in lines] == [("driver", "green"), ("NVDEC", "green")]
    assert lines[0]["found"] == "580.65.06, CUDA 13.0; 2 x Stand-in"
    assert lines[1]["found"] == "decodes mpeg4, h264, hevc, vp8, vp9, av1"


@pytest_cc
@pytest.mark.parametrize(
    ("environ", "name", "level", "found"),
    [
        ({"STAND_IN_CUDA": "12020"}, "driver", "red", "knows CUDA 12.2, and DALI here is built for CUDA 13"),
        ({"STAND_IN_INIT": "803"}, "driver", "red", "CUDA error 803"),
        ({"STAND_IN_CONTEXT": "46"}, "driver", "red", "CUDA error 46"),
        ({"STAND_IN_CRASHES": "1"}, "driver", "red", "asking it ended with exit code -6"),
        ({"STAND_IN_HANGS": "1"}, "driver", "red", "it did not answer for 2 s"),
        ({"STAND_IN_WITHOUT_CODEC": "11"}, "NVDEC", "yellow", "decodes mpeg4, h264, hevc, vp8, vp9; not av1"),
        ({"STAND_IN_WITHOUT_CODEC": "0"}, "NVDEC", "red", "the decoder of Stand-in takes no codec"),
    ],
)
def test_drivers_that_are_not(
    libraries: Path, tmp_path: Path, environ: dict[str, str], name: str, level: str, found: str
) -> None:
    _, lines = ask(libraries, root(tmp_path, ALL_FILES), **environ)
    assert (lines[-1]["name"], lines[-1]["level"]) == (name, level)
    assert found in lines[-1]["found"]
    assert lines[-1]["do"]


@pytest_cc
def test_a_container_without_the_capability_video(libraries: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    shutil.copy(libraries / "libcuda.so.1", tmp_path / "only")
    found, lines = ask(tmp_path / "only", root(tmp_path, ALL_FILES))
    assert found.codecs is None
    assert [line["level"] for line in lines] == ["green", "red"]
    assert lines[1]["name"] == "NVDEC"
    assert lines[1]["found"].startswith("libnvcuvid.so.1 does not load: libnvcuvid.so.1: cannot open shared object")
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility" in lines[1]["do"]


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="of a machine without a driver")
def test_device_files_without_libraries(tmp_path: Path) -> None:
    found, lines = ask(tmp_path, root(tmp_path, ALL_FILES))
    assert found.libcuda.startswith("libcuda.so.1: cannot open shared object")
    assert [(line["name"], line["level"]) for line in lines] == [("driver", "red")]
