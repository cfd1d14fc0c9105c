#!/bin/sh
# All that has to be measured on a GPU, the most telling first, in at most 10 minutes: every run passes its gates before
# anything is timed, and writes one JSON named by the device. What there is no time left for is said at the end.
#
#   sh results/gpu.sh [FOLDER]           ALLOWED=1200 sh results/gpu.sh    for twice the time
#   ouro bench compare BEFORE AFTER      sets two results side by side
set -u
folder=${1:-results}
end=$(($(date +%s) + ${ALLOWED:-600}))
python=${PYTHON:-python}
device=$("$python" -c '
import re, sys, torch
if not torch.cuda.is_available():
    sys.exit("not measured: no CUDA device")
print(re.sub(r"\W+", "_", torch.cuda.get_device_name().lower()).strip("_"))') || exit 2
mkdir -p "$folder"
failed="" skipped=""

measure() {
    name=$1
    shift
    left=$((end - $(date +%s)))
    if [ "$left" -lt 15 ]; then
        skipped="$skipped $name"
        return
    fi
    echo "$name, $left s left" >&2
    timeout "$left" "$python" -m ouro bench "$@" --out "$folder/${name}_$device.json" || failed="$failed $name"
}

measure model_vim_base model vim_base_patch16_224 --backend triton --b 1,8,32,128 --images 256
measure scan kernels scan --case Vim-B
measure gemm_in_proj gemm --case Vim-B --case in_proj
measure rows kernels rows --case Vim-B
measure pairs kernels paired_linear --case Vim-B
measure gemm_out_proj gemm --case Vim-B --case out_proj
measure devices_vim_nano devices vim_nano --device cuda
measure model_vim_tiny model vim_tiny_patch16_224 --backend triton --b 1,8,32,128 --images 1024
measure model_vim_small model vim_small_patch16_224 --backend triton --b 1,8,32,128 --images 256
measure kernels kernels

[ -z "$skipped" ] || echo "no time left for:$skipped" >&2
[ -z "$failed" ] || echo "failed, or cut off:$failed" >&2
[ -z "$failed$skipped" ]
