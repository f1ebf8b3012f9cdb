"""Stands in for a container engine: the steps of a Dockerfile, and commands in what they made, in a plain folder.

    stand_in.py build --folder DIR [--build-arg NAME=VALUE ...]
    stand_in.py run --folder DIR [--user USER] [--shm-size SIZE] [--network none] -- [COMMAND ...]
    stand_in.py health --folder DIR

A base image is stood in for by debootstrap. Each command runs by chroot in mount and process namespaces of its own, as
process 1, as the image's user, with no environment but the image's. It is no container: CPUs, memory, users and network
are the host's. Needs root. run.sh uses it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from configparser import RawConfigParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dockerfile import Image, Step, copied_files, plan, read_ignore_file

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
BASE_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

# How this host reaches its package index. Settings of the stand-in: a container engine has its own.
NETWORK_VARIABLES = (
    r"PIP_(CERT|(EXTRA_)?INDEX_URL|TRUSTED_HOST|PROXY|DEFAULT_TIMEOUT)",
    r"\w+_CERT|\w+_CA_BUNDLE|SSL_CERT_FILE|(?i:\w+_proxy)",
)
PIP_SETTINGS = ("cert", "index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

# What an engine mounts: /proc, /sys, a small /dev, /dev/shm, names and the resolver. Gone with the namespace.
NAMESPACE = f"""
set -e
root=$1 shm=$2 owner=$3
shift 3
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -o remount,bind,ro "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for name in null zero full random urandom tty; do
    : > "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o "size=$shm,mode=1777" shm "$root/dev/shm"
for file in /etc/hosts /etc/resolv.conf {CERTIFICATES}; do
    if [ -e "$file" ] && [ -e "$root$file" ]; then mount --bind "$file" "$root$file"; fi
done
exec chroot --userspec="$owner" --groups="${{owner#*:}}" "$root" /usr/bin/env -i "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("build", "run", "health"):
        command = commands.add_parser(name)
        command.add_argument("--folder", type=Path, required=True)
        if name == "build":
            command.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
        if name == "run":
            command.add_argument("--user")
            command.add_argument("--shm-size", default="8g")
            command.add_argument("--network", choices=["host", "none"], default="host")
            command.add_argument("command", nargs="*")
    given = parser.parse_args()
    try:
        if given.what == "build":
            build(given.folder, dict(word.split("=", 1) for word in given.build_arg))
            return 0
        image = read_image(given.folder)
        if given.what == "health":
            return run(given.folder, image.health, image)
        command_line = [*image.entrypoint, *(given.command or image.command)]
        if given.user is not None:
            image.user = given.user
        return run(given.folder, command_line, image, shm=given.shm_size, network=given.network)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def build(folder: Path, build_args: Mapping[str, str]) -> None:
    """Do the steps that are not done yet in ``folder/root``, and write ``folder/image.json``.

    Raises:
        ValueError: a step fails, or the folder was made by other steps.
    """
    image = plan(DOCKERFILE, build_args, base_environment=BASE_ENVIRONMENT)
    rules = read_ignore_file((REPOSITORY / ".dockerignore").read_text())
    done_file = folder / "steps.json"
    done: list[dict[str, Any]] = json.loads(done_file.read_text()) if done_file.exists() else []
    wanted: list[tuple[str, Step | None]] = [(f"FROM {image.base}", None)]
    wanted += [(f"{step.name} {' '.join(step.text.split())}", step) for step in image.steps]
    digests = [_digest(words, step, rules) for words, step in wanted]
    if [each["digest"] for each in done] != digests[: len(done)]:
        raise ValueError(f"{folder} was built from other lines or files. Remove it, or choose another folder.")
    if any(each["seconds"] is None for each in done):
        raise ValueError(f"{folder}: its last step did not end well. Remove it, or choose another folder.")
    root = folder / "root"
    for number, (words, step) in enumerate(wanted):
        print(f"--- {number + 1}/{len(wanted)} {words}{' (done before)' if number < len(done) else ''}", flush=True)
        if number < len(done):
            continue
        done.append({"words": words, "digest": digests[number], "seconds": None, "bytes": None})
        done_file.write_text(json.dumps(done))
        time.sleep(0.05)  # the clock of files is coarse
        before, start = time.time_ns(), time.monotonic()
        if step is None:
            make_base(root, image.base)
        else:
            do_step(root, step, rules)
        time.sleep(0.05)
        done[-1] |= {"seconds": time.monotonic() - start, "bytes": changed_bytes(root, since_ns=before)}
        done_file.write_text(json.dumps(done))
    (folder / "image.json").write_text(json.dumps({**asdict(image), "steps": []}))
    print_sizes(done)


def _digest(words: str, step: Step | None, rules: Sequence[tuple[str, bool]]) -> str:
    digest = hashlib.sha256(words.encode())
    if step is not None:
        digest.update(repr((step.user, step.workdir, sorted(step.environment.items()), step.chown)).encode())
        for source, target in copied_files(step, REPOSITORY, rules) if step.name == "COPY" else []:
            digest.update(f"{target} {source.stat().st_mode}".encode() + source.read_bytes())
    return digest.hexdigest()


def make_base(root: Path, base: str) -> None:
    """A Debian root like the base image."""
    python = re.fullmatch(r"python:(3\.\d+)-slim-([a-z]+)", base)
    debian = re.fullmatch(r"debian:([a-z]+)-slim", base)
    if python:
        suite, packages = python[2], "ca-certificates,python3,python3-venv"
    elif debian:
        suite, packages = debian[1], "ca-certificates"
    else:
        raise ValueError(f"FROM {base}: nothing stands in for it. Known: python:3.X-slim-SUITE and debian:SUITE-slim.")
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root), MIRROR]
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / "debootstrap.log").open("w") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode != 0:
            raise ValueError(f"FROM {base}: debootstrap failed, see {log.name}.")
    # The official images hold none of these, and let apt keep no packages.
    for used in [*root.glob("var/lib/apt/lists/*"), *root.glob("var/cache/apt/archives/*.deb")]:
        shutil.rmtree(used) if used.is_dir() else used.unlink()
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n'
    )
    for mounted in ("hosts", "resolv.conf"):
        (root / "etc" / mounted).touch()
    for compiled in root.glob("usr/lib/python3*/**/*.pyc"):
        compiled.unlink()
    if python:
        asked = ["chroot", str(root), "python3", "--version"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[1]
        if not found.startswith(f"{python[1]}."):
            raise ValueError(
                f"FROM {base}: the Python of Debian {suite} is {found}, not {python[1]}. Take another suite."
            )


def do_step(root: Path, step: Step, rules: Sequence[tuple[str, bool]]) -> None:
    if step.name == "WORKDIR":
        (root / step.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif step.name == "COPY":
        owner = numbers_of_user(root, step.chown)
        for source, target in copied_files(step, REPOSITORY, rules):
            file = root / target.lstrip("/")
            for folder in reversed(file.parents):
                if not folder.exists():
                    folder.mkdir()
                    os.chown(folder, *owner)
            shutil.copy2(source, file, follow_symlinks=False)
            os.chown(file, *owner, follow_symlinks=False)
    else:
        environment = {**network_settings(), **step.environment}
        code = enter(root, step.command, environment=environment, user=step.user, workdir=step.workdir)
        if code != 0:
            raise ValueError(f"{step.file}:{step.line}: RUN ended with exit status {code}.")


def changed_bytes(root: Path, *, since_ns: int) -> int:
    """Sizes of the files that were written or changed: what a layer of an image holds, before it is compressed."""
    sizes = {}
    for folder, _, names in os.walk(root):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            if status.st_ctime_ns >= since_ns:
                sizes[status.st_ino] = status.st_size  # once for all hard links
    return sum(sizes.values())


def print_sizes(done: Sequence[Mapping[str, Any]]) -> None:
    print("\n      MB      s  layer")
    for each in done:
        print(f"{each['bytes'] / 1e6:8.1f} {each['seconds']:6.0f}  {each['words'][:100]}")
    print(f"{sum(each['bytes'] for each in done) / 1e6:8.1f} {sum(each['seconds'] for each in done):6.0f}  all")


def read_image(folder: Path) -> Image:
    if not (folder / "image.json").exists():
        raise ValueError(f"{folder} holds no image. Build it first: stand_in.py build --folder {folder}.")
    return Image(**json.loads((folder / "image.json").read_text()))


def run(folder: Path, command: Sequence[str], image: Image, *, shm: str = "8g", network: str = "host") -> int:
    """A command in the finished image, as a container would run it."""
    settings = {} if network == "none" else network_settings()
    return enter(
        folder / "root",
        command,
        environment={**settings, **image.environment},
        user=image.user,
        workdir=image.workdir,
        shm=shm,
        network=network,
    )


def enter(
    root: Path,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    user: str,
    workdir: str,
    shm: str = "64m",  # as an engine gives it to a build
    network: str = "host",
) -> int:
    """Run a command in the root, pass SIGTERM on to it, and return its exit status."""
    uid, gid = numbers_of_user(root, user)
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *(["--net"] if network == "none" else [])]
    environment = {"HOME": home_of_user(root, uid), **environment}  # as an engine sets it
    inside = [f"--chdir={workdir}", *(f"{name}={value}" for name, value in environment.items()), *command]
    process = subprocess.Popen(
        [*unshare, "sh", "-c", NAMESPACE, "sh", str(root.resolve()), shm, f"{uid}:{gid}", *inside]
    )

    def pass_on(_signal: int, _frame: object) -> None:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    code = process.wait()
    return code if code >= 0 else 128 - code


def numbers_of_user(root: Path, user: str) -> tuple[int, int]:
    """Of ``user[:group]``, by number or by name; root for nothing. The group of a number that has no entry is root."""
    if not user:
        return 0, 0
    name, _, group = user.partition(":")
    entries = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    entry = next((entry for entry in entries if name in (entry[0], entry[2])), None)
    if entry is None and not name.isdecimal():
        raise ValueError(f"{user}: {root}/etc/passwd has no user {name}.")
    if group and not group.isdecimal():
        groups = [line.split(":") for line in (root / "etc/group").read_text().splitlines()]
        group = next((line[2] for line in groups if line[0] == group), "")
        if not group:
            raise ValueError(f"{user}: {root}/etc/group has no such group.")
    if entry is None:
        return int(name), int(group or 0)
    return int(entry[2]), int(group or entry[3])


def home_of_user(root: Path, uid: int) -> str:
    entries = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    return next((entry[5] for entry in entries if entry[2] == str(uid)), "/")


def network_settings() -> dict[str, str]:
    parser = RawConfigParser()
    parser.read(["/etc/pip.conf", Path.home() / ".config/pip/pip.conf"])
    options = parser["global"] if parser.has_section("global") else {}
    found = {f"PIP_{name.upper().replace('-', '_')}": options[name] for name in PIP_SETTINGS if name in options}
    found |= {name: value for name, value in os.environ.items() if re.fullmatch("|".join(NETWORK_VARIABLES), name)}
    # An index in a folder of this host is not in the root.
    return {name: value for name, value in found.items() if "file:" not in value}


if __name__ == "__main__":
    sys.exit(main())
