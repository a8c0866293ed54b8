#!/bin/sh
# What `make gpu` does, on a machine with a GPU that reaches no network, within ten minutes.
#
#     benchmarks/gpu_offline.sh WHEELS [OUT]        install from WHEELS alone, run the steps; OUT (gpu-out) has their JSON
#     benchmarks/gpu_offline.sh --collect WHEELS    where there is an index: download the wheels, make the bundles beside them
#     benchmarks/gpu_offline.sh --dry-run [OUT]     every step here, without a GPU: on the one of the tests, which is none
#
# WHEELS has wheels or their parts (NAME.whl.part00, …) and perhaps SHA256SUMS. A folder `bundles` beside it, as --collect makes
# it, spares the minutes that exporting takes. The most important step comes first; each is bounded in time and keeps what it has
# found. PYTHON (python3) makes the environment, or runs --collect and --dry-run; GPU_SECONDS (600) is for everything together;
# with --collect, TARGET_PYTHON (3.12) is that of the other machine; GPU_FAMILIES (vit,dinov2) runs some of the families only.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
python=${PYTHON:-python3}
seconds=${GPU_SECONDS:-600}
families=${GPU_FAMILIES:-}
started=$(date +%s)
export PYTHONPATH="$checkout"

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^#     //p' "$0" >&2
    exit 2
}

[ $# -gt 0 ] || usage
case $seconds in
'' | *[!0-9]*) fail "GPU_SECONDS=$seconds; allowed: whole seconds, such as 600" ;;
esac
case $1 in
--collect)
    [ $# = 2 ] || usage
    "$python" "$here/gpu_wheels.py" collect "$2" --python "${TARGET_PYTHON:-3.12}"
    bundles=$(cd "$2/.." && pwd)/bundles
    for step in bundles models; do
        "$python" "$here/gpu.py" --step $step --out "$bundles/$step.json" --work "$bundles" >"$bundles-$step.log" 2>&1 ||
            fail "the bundles cannot be made: see $bundles-$step.log"
        rm "$bundles-$step.log"
    done
    echo "→ $2 and $bundles: take both, and this checkout, to the machine"
    exit
    ;;
--dry-run)
    [ $# -le 2 ] || usage
    out=${2:-gpu-dry-run}
    exec "$python" "$here/gpu_steps.py" "$out" --dry-run --seconds "${GPU_SECONDS:-3600}" --families "$families"
    ;;
-*) usage ;;
esac
[ $# -le 2 ] || usage

wheels=$1
out=${2:-gpu-out}
asked="import runpy, sys; print(runpy.run_path(sys.argv[1])['visible_gpu']() or '')"
gpu=$("$python" -c "$asked" "$checkout/runtimes/gpu.py") ||
    fail "$python cannot be run; fix: PYTHON=/path/to/python3 $0 $wheels"
[ -n "$gpu" ] || fail "no NVIDIA GPU is visible: nothing is installed, nothing measured; fix: nvidia-smi, CUDA_VISIBLE_DEVICES"
echo "$gpu"
mkdir -p "$out"
out=$(cd "$out" && pwd)

if [ ! -e "$out/venv/installed" ]; then
    rm -rf "$out/wheels"
    "$python" "$here/gpu_wheels.py" join "$wheels" "$out/wheels"
    # Debian's Python has no pip to put into it: that one comes from the wheels.
    "$python" -m venv --clear "$out/venv" >/dev/null 2>&1 || "$python" -m venv --clear --without-pip "$out/venv" ||
        fail "$python makes no virtual environment; fix: PYTHON=/path/to/python3 $0 $wheels"
    spent=$(($(date +%s) - started))
    "$python" "$here/gpu_wheels.py" install "$out/venv/bin/python" "$wheels" "$out/wheels" --seconds $((seconds - spent)) ||
        fail "the wheels cannot be installed"
    rm -rf "$out/wheels"
    touch "$out/venv/installed"
fi
if [ -d "$wheels/../bundles/full" ]; then
    mkdir -p "$out/work"
    cp -R "$wheels/../bundles/full" "$out/work/"
fi
spent=$(($(date +%s) - started))
echo "installed after $spent s"
VIDRISK_REQUIRE_GPU=1 HF_HUB_OFFLINE=1 exec "$out/venv/bin/python" "$here/gpu_steps.py" "$out" --seconds $((seconds - spent)) \
    --families "$families"
