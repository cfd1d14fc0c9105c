#!/bin/sh
# All that has to be measured on a GPU, the most telling first and slow peers last, in at most 8 minutes. Gates come before
# times; what fails one is timed all the same and called unverified. Every run writes one JSON named by the device, and none
# waits for another to succeed. What there is no time left for is said at the end.
#
#   sh results/gpu.sh [FOLDER]           ALLOWED=1200 sh results/gpu.sh    for more time
#   ouro bench compare BEFORE AFTER      sets two results side by side
#
# Kernels need torch and Triton only; models need the library's other packages, and are left out where these are missing.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/results}
end=$(($(date +%s) + ${ALLOWED:-480}))
python=${PYTHON:-python}
device=$("$python" -c '
import re, sys, torch
if not torch.cuda.is_available():
    sys.exit("not measured: no CUDA device")
print(re.sub(r"\W+", "_", torch.cuda.get_device_name().lower()).strip("_"))') || exit 2
mkdir -p "$folder"
failed="" skipped="" missing=""

# not installed: an importable tree of this checkout, with kernels/ where the package has it
if ! "$python" -c 'import ouro.kernels' 2>/dev/null; then
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    cp -r "$root/ouro" "$tree/ouro"
    rm -rf "$tree/ouro/kernels"
    cp -r "$root/kernels" "$tree/ouro/kernels"
    OURO_COMMIT=$(git -C "$root" describe --always --dirty '--exclude=*' 2>/dev/null || echo unknown)
    PYTHONPATH=$tree${PYTHONPATH:+:$PYTHONPATH}
    export OURO_COMMIT PYTHONPATH
fi
"$python" -c 'import ouro.jobs.bench.fused, typer, rich' 2>/dev/null || missing="models"

measure() {
    name=$1
    shift
    left=$((end - $(date +%s)))
    if [ "$left" -lt 15 ]; then
        skipped="$skipped $name"
        return
    fi
    echo "$name, $left s left" >&2
    timeout "$left" "$python" -m "$@" --out "$folder/${name}_$device.json" || failed="$failed $name"
}

kernels() {
    measure "$1" ouro.jobs.bench.alone "$2" $3
}

models() {
    if [ -n "$missing" ]; then
        skipped="$skipped $1"
        return
    fi
    measure "$1" ouro bench $2
}

kernels gates gates "--processes 4"
models model_vim_base "model vim_base_patch16_224 --backend triton --b 1,8,32,128 --images 256 --no-peers"
kernels scan times "scan --case Vim-B --no-peers"
kernels gemm times "gemm --case Vim-B"
kernels rows times "rows --case Vim-B"
kernels pairs times "paired_linear --case Vim-B"
models devices_vim_nano "devices vim_nano --device cuda"
models model_vim_tiny "model vim_tiny_patch16_224 --backend triton --b 1,8,32,128 --images 256 --no-peers"
models model_vim_base_peers "model vim_base_patch16_224 --backend triton --formats fp16 --b 1,8,32,128 --images 256"
kernels scan_peers times "scan --case Vim-B"
models model_vim_small "model vim_small_patch16_224 --backend triton --b 1,8,32,128 --images 256 --no-peers"
kernels kernels times ""

[ -z "$missing" ] || echo "models were left out: their packages are not installed (pip install -e .)" >&2
[ -z "$skipped" ] || echo "not run:$skipped" >&2
[ -z "$failed" ] || echo "a gate failed, or it was cut off:$failed" >&2
[ -z "$failed$skipped" ]
