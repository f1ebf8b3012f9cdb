#!/usr/bin/env bash
# Proves docker/Dockerfile without a container engine: its own lines are read and run in a clean Debian root, and what
# they made is tried as a container would be.
#
#   tests/docker/run.sh [--cuda 130|120] [--base IMAGE] [--folder DIR] [--until build|train|suite]
#
#   --cuda 120     the CUDA 12 build; 130 by default
#   --base IMAGE   another base image: python:3.X-slim-SUITE, or debian:SUITE-slim, which has no Python yet
#   --folder DIR   keep the root there, and go on with it the next time; a temporary folder by default
#   --until WHERE  build: the steps, and what must and must not be in the image; train: also doctor and trainings;
#                  suite (the default): also the test suite
#
# Needs root, debootstrap, a network, and 10 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "error: $*" >&2
    exit 1
}

cuda=130 base='' folder='' until=suite
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1: a value is missing. See the head of tests/docker/run.sh."
    case $1 in
        --cuda) cuda=$2 ;;
        --base) base=$2 ;;
        --folder) folder=$2 ;;
        --until) until=$2 ;;
        *) fail "$1 is no option. Allowed: --cuda, --base, --folder, --until; see the head of tests/docker/run.sh." ;;
    esac
    shift 2
done
case $until in build | train | suite) ;; *) fail "--until $until: allowed are build, train and suite." ;; esac
[ "$(id -u)" = 0 ] || fail "user $(id -un) cannot chroot. Run it as root, on a machine that may be spoilt."
for program in debootstrap unshare chroot git python3; do
    command -v "$program" > /dev/null || fail "no program $program on PATH." \
        "Install it (Debian: apt-get install debootstrap util-linux coreutils git python3)."
done
if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
mkdir -p "$folder"
free=$(df --output=avail -B 1000000000 "$folder" | tail -1)
[ -d "$folder/root" ] || [ "$free" -ge 10 ] || fail "$folder has $free GB free, and 10 are needed. Name another --folder."

image() { python3 tests/docker/stand_in.py run --folder "$folder" "$@"; }
say() { printf '\n=== %s\n' "$*"; }
must() { # a sentence, and a command that succeeds if it is true
    local sentence=$1
    shift
    if "$@"; then echo "ok: $sentence"; else fail "not true: $sentence"; fi
}
must_not() { # a sentence, and a command that fails if it is true
    local sentence=$1
    shift
    if "$@"; then fail "not true: $sentence"; else echo "ok: $sentence"; fi
}

say "the Dockerfile's lines, for CUDA $cuda"
python3 tests/docker/stand_in.py build --folder "$folder" --build-arg "CUDA=$cuda" ${base:+--build-arg "BASE=$base"}

say "what is in the image"
root=$folder/root
found() { [ -n "$(find "$@" -print -quit)" ]; }
compilers='.*/\(x86_64-linux-gnu-\)?\(gcc\|g\+\+\|cc\|c\+\+\|cpp\|clang\)\(-[0-9].*\)?'
must_not "there is no compiler" found "$root/usr/bin" "$root/usr/local/bin" "$root/opt/venv/bin" -regex "$compilers"
must_not "pip left no cache" found "$root/root" "$root/cache" "$root/home" "$root/tmp" -path '*/pip*'
must_not "apt left no lists" found "$root/var/lib/apt/lists" -type f
must_not "apt left no packages" found "$root/var/cache/apt" -name '*.deb'
must "the image's user is 10001" image -- python -c 'import os; assert (os.getuid(), os.getgid()) == (10001, 10001)'
must "the packages fit together" image -- python -m pip check
# With -v, Python says of each module which file its code came from.
image -- python -v -c 'import lightning.fabric, nvidia.dali.fn, mgs_dali.load.loader, models.tsm, train.tsm' \
    2> "$folder/imports.txt"
must "the trainer's bytecode is used" grep -q "code object from '/opt/mgs_dali/train/__pycache__/tsm" "$folder/imports.txt"
must_not "an import of the trainer compiles nothing" grep "code object from .*[.]py'\\?$" "$folder/imports.txt"
for user in 10001:10001 1234:1234; do
    # What PyTorch, matplotlib and the trainer write, also for a user whom the image does not know.
    must "user $user can write to the volumes" image --user "$user" -- python -c '
import os, tempfile
import matplotlib, torch
from torch._inductor.runtime.cache_dir_utils import cache_dir
for folder in (torch.hub.get_dir(), matplotlib.get_cachedir(), cache_dir(), "/workspace"):
    os.makedirs(folder, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    assert folder.startswith(("/cache/", "/workspace")), folder
'
    rm -rf "${root:?}"/cache/* "$root"/cache/.[!.]*
    must_not "user $user cannot write to the code" image --user "$user" -- \
        sh -c "touch /opt/mgs_dali/train/tsm.py 2> /dev/null"
done
[ "$until" = build ] && exit

say "the doctor, and the health check"
must "the doctor finds nothing red" image -- mgs-dali doctor
must "the container is healthy" python3 tests/docker/stand_in.py health --folder "$folder"

say "a training on the demo, without a network"
rm -rf "${root:?}"/workspace/*
image --network none -- --epochs 1 --out runs/first | tee "$folder/train.txt"
must "it ends with its score" grep -q '^best val/top1 0\.[0-9]* (epoch 1)$' "$folder/train.txt"
must "the user's checkpoint is in the volume" found "$root/workspace/runs/first/best.ckpt" -uid 10001

say "a training that is stopped, and goes on"
# Not by image(): in the background that is a shell of its own, which would take the signal.
python3 tests/docker/stand_in.py run --folder "$folder" -- --epochs 3 --out runs/stopped 2> "$folder/stopped.txt" &
engine=$!
for _ in $(seq 600); do
    if [ -e "$root/workspace/runs/stopped/last.ckpt" ] || ! kill -0 "$engine"; then break; fi
    sleep 1
done
kill -TERM "$engine"
code=0
wait "$engine" || code=$?
must "SIGTERM reached the trainer: it ended with 143, and here $code" [ "$code" = 143 ]
cat "$folder/stopped.txt"
must "it said how to go on" grep -q '^Stopped. Go on with: ' "$folder/stopped.txt"
must_not "it did not train to the end" grep -q 'epoch 3/3' "$folder/stopped.txt"
image -- --out runs/stopped --resume auto | tee "$folder/resumed.txt"
must "it went on to the end" grep -q '^best val/top1 [01]\.[0-9]* (epoch [123])$' "$folder/resumed.txt"

say "other commands through the entry point"
must "torchrun trains in two processes" image -- torchrun --nproc-per-node 2 -m train.tsm \
    --epochs 1 --batch-size 8 --out runs/two
code=0
image -- --epoch 1 2> "$folder/mistyped.txt" || code=$?
cat "$folder/mistyped.txt"
must "a mistyped option ends with 2, and here $code" [ "$code" = 2 ]
must "it is said in one line" [ "$(wc -l < "$folder/mistyped.txt")" = 1 ]
[ "$until" = train ] && exit

say "the test suite, on the image's code"
# In a copy by hard links, so that the root stays what the image is. The tests lie beside a copy of the image's code.
suite=$folder/suite
rm -rf "$suite"
mkdir "$suite"
cp -al "$root" "$suite/root"
cp "$folder/image.json" "$suite/"
mkdir "$suite/root/workspace/suite"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from - \
    | tar --extract --directory "$suite/root/workspace/suite"
for name in mgs_dali models train; do
    rm -r "$suite/root/workspace/suite/$name"
    cp -a "$root/opt/mgs_dali/$name" "$suite/root/workspace/suite/$name"
done
chown -R 10001:10001 "$suite/root/workspace/suite"
in_suite() { python3 tests/docker/stand_in.py run --folder "$suite" "$@"; }
in_suite --user root -- pip install --quiet --no-cache-dir \
    --constraint "/workspace/suite/constraints-cuda$cuda.txt" --editable '/opt/mgs_dali[test]'
must "the test suite passes" in_suite -- sh -c 'cd suite && python -m pytest -q'
