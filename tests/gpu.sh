#!/usr/bin/env bash
# What only a GPU shows, in ten minutes at most, without a network: training with AMP,
# two processes of one training on one device, decoding, export, bench. Its figures go
# with the GPU's name, which it prints first.
#   tests/gpu.sh            in an environment that satisfies requirements-dev.txt
#   NGPU=0 tests/gpu.sh     tries the script itself where there is no GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh requirements-dev.txt
ngpu=${NGPU:-1} amp="" device=cpu
if [ "${ngpu}" != 0 ]; then
    python3 -c 'import torch; print(torch.cuda.get_device_name(), torch.__version__)'
    amp="--use_amp true" device=cuda
fi
work=$(mktemp -d) && trap 'rm -rf "${work}"' EXIT
git archive HEAD | tar -x -C "${work}"
here=${PWD} && cd "${work}"
export PYTHONPATH=${work}
gpu=(--ngpu "${ngpu}")
decoding=()
[ "${ngpu}" = 0 ] || decoding=(--gpu_inference true --precisions bf16)
./run.sh --preset quick "${gpu[@]}" "${decoding[@]}" \
    --asr_args "${amp}" --prune_args "${amp}" --finetune_args "${amp}"
./run.sh --family ssl --preset quick "${gpu[@]}"
python3 -m espnet_prune.cli.bench --models d256 --targets 0.5 --seconds 10 --device "${device}"
cd "${here}"
python3 -m pytest tests/training/test_student_devices.py tests/training/test_spawn.py
