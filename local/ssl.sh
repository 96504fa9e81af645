#!/usr/bin/env bash
# From a self-supervised encoder to a small one: prune, cut, distil, probe, compare.
# ./run.sh --family ssl ... comes here. Stages only; all computing is in espnet_prune/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck disable=SC2034  # local/parse_options.sh reads it
help_message="Usage: ./run.sh --family ssl --model DIR --audio DIR [--option value ...]

Stages: 1 audio, 2 prune, 3 export, 4 distil, 5 measure.
  --family           ssl: encoders of Hugging Face, as here; without it those of ESPnet
  --stage            first stage to run
  --stop_stage       last stage to run
  --model            HuBERT, WavLM or wav2vec 2.0: a directory of Hugging Face, or a name there
  --audio            folder of audio files, or a Kaldi wav.scp; no transcripts
  --crop_seconds     length of the crops that the audio is cut into
  --tag              name of this run's directories; default: that of the model
  --target           fraction of the encoder to remove
  --target_kind      params | macs | params+macs
  --method           l0 | iterative | magnitude | random
  --prune_config     of stage 2
  --prune_args       further options of stage 2
  --distil_config    of stage 4
  --distil_args      further options of stage 4
  --measure_args     further options of stage 5
  --nj               processes of stage 1
  --ngpu             GPUs to train on (0: CPU); several train with DDP
"
stage=1 stop_stage=5 model="" audio="" crop_seconds=4 tag=""
target=0.5 target_kind=params method=l0
prune_config=conf/ssl/prune.yaml prune_args="" distil_config=conf/ssl/distil.yaml
distil_args="" measure_args="" nj=2 ngpu=0 family=ssl
# shellcheck disable=SC1091
. local/parse_options.sh

die() { echo "error: $1" >&2; exit 2; }
[ "${family}" = ssl ] || die "--family ${family}: ssl, or leave it out"
[ -n "${model}" ] || die "--model: name a directory of Hugging Face -> ./run.sh --family ssl --help"
[ -n "${audio}" ] || [ "${stage}" -gt 1 ] || die "--audio: name a folder of audio files"
[[ ${stage} =~ ^[0-9]+$ && ${stop_stage} =~ ^[0-9]+$ ]] || die "--stage ${stage} --stop_stage ${stop_stage}: they take numbers"
[[ ${target} =~ ^0?\.[0-9]*[1-9][0-9]*$ ]] || die "--target ${target}: give a fraction between 0 and 1, as 0.5"
[ "${stage}" -le 5 ] && [ "${stop_stage}" -ge "${stage}" ] ||
    die "--stage ${stage} --stop_stage ${stop_stage}: no stage lies there -> see ./run.sh --family ssl --help"
for option in prune_config distil_config; do
    [ -f "${!option}" ] || die "--${option} ${!option}: is no file"
done
[ -n "${tag}" ] || tag=$(basename "${model}")
# shellcheck disable=SC1091
. ./path.sh
dump=dump/ssl/${tag}
name=${target_kind//+/_}$(awk -v t="${target}" 'BEGIN { printf "%g", 100 * t }')
[ "${method}" = l0 ] || name=${method}_${name}
pruned=exp/${tag}_pruned_${name}
compact=exp/${tag}_compact_${name}

begin() { # number, title
    [ "$1" -ge "${stage}" ] && [ "$1" -le "${stop_stage}" ] || return 1
    printf '[%02d:%02d] stage %s: %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$1" "$2"
}
train() { # directory, options...
    local dir=$1; shift
    python3 -m espnet_prune.cli.progress --log "${dir}/train.log" -- \
        python3 -m espnet_prune.cli.ssl_train --dense "${model}" --output_dir "${dir}" \
        --train "${dump}/train" --valid "${dump}/valid" \
        --ngpu "${ngpu}" --multiprocessing_distributed true "$@"
}

if begin 1 "cut the audio into crops: ${dump}"; then
    python3 -m espnet_prune.cli.ssl_audio --audio "${audio}" --out "${dump}" \
        --seconds "${crop_seconds}" --nj "${nj}" --dense "${model}"
fi
if begin 2 "prune ${target} of the ${target_kind} in ${pruned} (${method})"; then
    # shellcheck disable=SC2086
    train "${pruned}" --recipe "${prune_config}" --method "${method}" \
        --kind "${target_kind}" --target "${target}" ${prune_args}
fi
if begin 3 "export the compact model to ${compact}"; then
    python3 -m espnet_prune.cli.ssl_export --pruned "${pruned}" --out "${compact}"
fi
if begin 4 "distil it in ${compact}_distilled"; then
    # shellcheck disable=SC2086
    train "${compact}_distil" --recipe "${distil_config}" --compact "${compact}" ${distil_args}
fi
if begin 5 "measure parameters, MACs and real-time factors"; then
    # shellcheck disable=SC2086
    python3 -m espnet_prune.cli.ssl_measure --dense "${model}" \
        --compact "${compact}_distilled" --out "exp/${tag}_report_${name}" ${measure_args}
fi
printf '[%02d:%02d] finished\n' $((SECONDS / 60)) $((SECONDS % 60))
