"""What docker/README.md, compose.yaml and kubernetes.yaml name is there: images, options, files, variables."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from dockerfile import Image, plan

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker"
README = (FOLDER / "README.md").read_text()


def image(**build_args: str) -> Image:
    return plan(FOLDER / "Dockerfile", build_args, base_environment={"PATH": ""})


def commands(start: str) -> list[list[str]]:
    """Words of the commands in the README's sh blocks that begin so, or hold it behind srun's own options."""
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith(start)]
    assert found, start
    return found


def images() -> set[str]:
    """The images that the README builds."""
    return {words[words.index("--tag") + 1] for words in commands("docker build ")}


def in_container(words: list[str]) -> tuple[list[str], str, list[str]]:
    """Docker's options, the image and the container's arguments of ``docker run``."""
    (place,) = [index for index, word in enumerate(words) if word in images()]
    return words[2:place], words[place], words[place + 1 :]


def check_arguments(arguments: list[str]) -> None:
    """That what a container is given is a command of ours with options that exist."""
    pytest.importorskip("torch", reason="needs the extra train")
    from train.command_line import Options
    from train.recipe import RECIPES, Recipe

    known = {f"--{field.name.replace('_', '-')}" for cls in (Options, Recipe) for field in dataclasses.fields(cls)}
    if arguments[0] == "mgs-dali":
        assert arguments[1] == "doctor"
        return
    if arguments[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        module = arguments.index("train.tsm")
        filled = [word.replace("$SLURM_NNODES", "4") for word in arguments[1:]]
        assert get_args_parser().parse_args(filled).training_script == "train.tsm"
        arguments = arguments[module + 1 :]
    words = [part for word in arguments for part in word.split("=", 1)]
    assert {word for word in words if word.startswith("--")} <= known, arguments
    recipe = words[words.index("--recipe") + 1] if "--recipe" in words else "demo"
    assert recipe == "my.yaml" or (RECIPES / f"{recipe}.yaml").is_file()


def test_builds_name_files_and_arguments_that_exist() -> None:
    for words in commands("docker build "):
        assert (ROOT / words[words.index("--file") + 1]).samefile(FOLDER / "Dockerfile")
        values = [words[index + 1] for index, word in enumerate(words) if word == "--build-arg"]
        cuda = image(**dict(value.split("=", 1) for value in values)).steps[2].environment["CUDA"]
        assert words[words.index("--tag") + 1] == f"mgs-dali:cuda{cuda}"
    for name in re.findall(r"^\| `([A-Z]+)` \|", README, flags=re.MULTILINE):
        image(**{name: "x"})  # an ARG that does not exist is an error
    assert f"`{image().base}` if not given" in README


def test_containers_are_given_what_they_understand() -> None:
    for words in commands("docker run "):
        options, _, arguments = in_container(words)
        check_arguments(arguments)
        assert "--gpus" in options
        assert "--shm-size" in options
        mounted = [options[index + 1].split(":")[1] for index, word in enumerate(options) if word == "--volume"]
        assert not mounted or set(image().volumes) <= set(mounted)


def test_jobs_of_slurm_are_given_what_they_understand() -> None:
    for words in commands("srun "):
        check_arguments(words[words.index("torchrun") :])
        mounts = words[words.index("--container-mounts") + 1].split(",")
        assert set(image().volumes) <= {mount.split(":")[1] for mount in mounts}
        assert words[words.index("--container-workdir") + 1] == image().workdir


def test_every_option_of_docker_run_is_explained() -> None:
    table = README.partition("| what | why |")[2].partition("\n\n")[0]
    for words in commands("docker run "):
        options, _, _ = in_container(words)
        for option in {word for word in options if word.startswith("--")} - {"--rm", "--user", "--network"}:
            assert f"| `{option}" in table, option
    assert "--user" in README.partition("Without `--user`")[1]


def test_the_driver_capabilities_are_the_same_everywhere() -> None:
    wanted = image().environment["NVIDIA_DRIVER_CAPABILITIES"]
    pages = [README, (FOLDER / "kubernetes.yaml").read_text(), (ROOT / "docs" / "gpu.md").read_text()]
    for page in pages:
        found = re.findall(r"(?:NVIDIA_DRIVER_CAPABILITIES=|value: )(compute\S*?)[`'\s]", page)
        assert found
        assert set(found) == {wanted}


def test_compose() -> None:
    given: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    (service,) = given["services"].values()
    build = service["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).samefile(FOLDER / "Dockerfile")
    for cuda in ("${CUDA:-130}", "130", "120"):
        image(**{name: value.replace("${CUDA:-130}", cuda) for name, value in build["args"].items()})
    assert service["image"].replace("${CUDA:-130}", "120") in images()
    check_arguments(service["command"])
    assert {volume.split(":")[1] for volume in service["volumes"]} == set(image().volumes)
    assert {volume.split(":")[0] for volume in service["volumes"]} == set(given["volumes"])
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    # The README's docker run line says the same.
    options, _, _ = in_container(commands("docker run ")[0])
    assert options[options.index("--shm-size") + 1] == service["shm_size"]
    ulimits = {options[index + 1] for index, word in enumerate(options) if word == "--ulimit"}
    assert ulimits == {f"{name}={value}" for name, value in service["ulimits"].items()}


def test_kubernetes() -> None:
    given: dict[str, Any] = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())
    assert (given["apiVersion"], given["kind"]) == ("batch/v1", "Job")
    pod = given["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] in images()
    assert "command" not in container  # which would replace the entry point
    check_arguments(container["args"])
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in container["args"]
    assert "{runAsUser}:{runAsGroup}".format(**pod["securityContext"]) == image().user
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts) == {"/dev/shm", *image().volumes}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    head = (FOLDER / "kubernetes.yaml").read_text().partition("apiVersion")[0]
    claims = {volume["persistentVolumeClaim"]["claimName"] for name, volume in volumes.items() if name != "shm"}
    assert claims == set(re.findall(r"mgs-dali-\w+", head))


def test_weights_are_the_files_that_torchvision_asks_for() -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from torchvision.models import get_weight

    from models.tsm import DEPTHS

    rows = dict(re.findall(r"^\| (\w+)(?:, the default)? \| `(\S+\.pth)` \|", README, flags=re.MULTILINE))
    assert set(rows) == {str(depth) for depth in DEPTHS if depth != 10}  # for 10 there are none
    for depth, file in rows.items():
        name = "MobileNet_V2_Weights" if depth == "mobilenet_v2" else f"ResNet{depth}_Weights"
        assert get_weight(f"{name}.IMAGENET1K_V1").url == f"https://download.pytorch.org/models/{file}"
    assert f"cp {rows['50']} ~/.cache/mgs-dali/torch/hub/checkpoints/" in README
    assert f"`{image().environment['TORCH_HOME']}/hub/checkpoints/` in the container" in README


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 3
    for link in links:
        file, _, heading = link.partition("#")
        page = (FOLDER / file if file else FOLDER / "README.md").resolve()
        assert page.is_file(), link
        headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE) if heading else []
        anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
        assert not heading or heading in anchors, link


def test_options_of_run_sh_exist() -> None:
    script = (ROOT / "tests" / "docker" / "run.sh").read_text()
    used = set(re.findall(r"run\.sh ([^`\n]*)", README))
    assert used
    for line in used:
        for option in re.findall(r"--[a-z]+", line):
            assert f"{option}) " in script, option
