#!/bin/sh
# The `[cpu]` install on aarch64, in Debian's user-mode emulation: does it resolve, and does it predict what x86 predicts?
#
#     sudo benchmarks/arm64_smoke.sh [FOLDER]
#
# Needs Debian or Ubuntu on x86-64, root, and the packages qemu-user-static, binfmt-support and debootstrap; PYTHON (python3) with
# `vidrisk[export]`, which makes a small bundle, clips and photos. FOLDER keeps the arm64 root, so that a second run need not
# make it again; without it everything is in a temporary folder. Writes benchmarks/results/arm64.json. Nothing that is
# measured here says anything about speed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
python=${PYTHON:-python3}
suite=bookworm

[ "$(id -u)" = 0 ] || { echo "error: must be root, to make and enter an arm64 root" >&2; exit 1; }
for command in debootstrap update-binfmts qemu-aarch64-static; do
    command -v "$command" >/dev/null || {
        echo "error: $command is missing; fix: apt install qemu-user-static binfmt-support debootstrap" >&2
        exit 1
    }
done

if [ $# -gt 0 ]; then
    mkdir -p "$1"
    work=$(cd "$1" && pwd)
    kept=yes
else
    work=$(mktemp -d)
    kept=
fi
root=$work/root
enabled=
mounted=

leave() {
    umount "$root/proc" 2>/dev/null || :
    [ -z "$enabled" ] || update-binfmts --disable qemu-aarch64
    [ -z "$mounted" ] || umount /proc/sys/fs/binfmt_misc
    [ -n "$kept" ] || rm -rf "$work"
}
trap leave EXIT
trap 'exit 130' INT TERM

if [ ! -e /proc/sys/fs/binfmt_misc/status ]; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    mounted=yes
fi
if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
    update-binfmts --enable qemu-aarch64
    enabled=yes
fi

if [ ! -x "$root/usr/bin/python3" ]; then
    nice debootstrap --arch=arm64 --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root"
fi
# The network, and whom it trusts, are the host's.
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"

run=$root/run-smoke
inside=/run-smoke
rm -rf "$run"
mkdir "$run"
arm() { nice chroot "$root" /usr/bin/env HOME=/root VIDRISK_CACHE="$inside/cache" "$@"; }
x86() { nice env VIDRISK_CACHE="$run/cache-x86" "$python" -m "$@"; }

cd "$checkout"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$run" .
nice "$python" "$here/arm64.py" make "$run"
for variant in fp32 int8; do
    x86 vidrisk infer "$run/bundle" "$run/media" -o "$run/x86-$variant" --runtime onnxruntime --variant $variant --no-report --json >/dev/null
done

started=$(date +%s)
arm python3 -m venv "$inside/env"
wheel=$(basename "$run"/vidrisk-*.whl)
arm "$inside/env/bin/pip" install --quiet --only-binary=:all: "$inside/${wheel}[cpu]"
arm "$inside/env/bin/pip" list --format=json >"$run/packages.json"
# JetPack 6 is Ubuntu 22.04 (Python 3.10, glibc 2.35), JetPack 7 is 24.04 (3.12, 2.39). pip knows the tags of another system when
# it is given all of them; the markers of requirements it reads as on this one, which is an aarch64, too.
resolve() {
    version=$1
    glibc=$2
    set --
    for minor in $(seq 17 "$glibc"); do
        set -- "$@" --platform "manylinux_2_${minor}_aarch64"
    done
    arm "$inside/env/bin/pip" install --quiet --dry-run --ignore-installed --only-binary=:all: --target "$inside/nothing" \
        --python-version "$version" --implementation cp "$@" --platform manylinux2014_aarch64 \
        --report "$inside/resolved-$version.json" "$inside/${wheel}[cpu]"
}
resolve 3.10 35
resolve 3.12 39
for variant in fp32 int8; do
    arm "$inside/env/bin/vidrisk" infer "$inside/bundle" "$inside/media" -o "$inside/arm-$variant" --runtime onnxruntime \
        --variant $variant --workers 1 --file-timeout 600 --no-report --json >/dev/null
done
arm "$inside/env/bin/vidrisk" doctor --json >"$run/doctor.json" || :
arm "$inside/env/bin/python" -c 'import platform; print(platform.machine(), platform.python_version())' >"$run/platform.txt"
qemu-aarch64-static --version | head -n 1 >"$run/emulator.txt"
echo $(($(date +%s) - started)) >"$run/seconds.txt"

"$python" "$here/arm64.py" compare "$run" -o "$here/results/arm64.json"
