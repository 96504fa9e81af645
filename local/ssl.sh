#!/usr/bin/env bash
# From a self-supervised encoder to a small one: prune, cut, distil, probe, compare.
# ./run.sh --family ssl ... comes here. Stages only; all computing is in espnet_prune/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck disable=SC2034  # local/parse_options.sh reads it
help_message="Usage: ./run.sh --family ssl [--model DIR --audio DIR] [--option value ...]

Stages: 1 audio, 2 prune, 3 export, 4 distil, 5 probe, 6 measure, 7 report.
  --family           ssl: encoders of Hugging Face, as here; without it those of ESPnet
  --stage            first stage to run
  --stop_stage       last stage to run
  --skip_stages      stages to leave out, as \"5 6\"
  --preset           default | quick (a first look in minutes)
  --model            HuBERT, WavLM or wav2vec 2.0: a directory of Hugging Face, or a name
                     there; default: the small HuBERT that comes with the project
  --audio            folder of audio files, or a Kaldi wav.scp; no transcripts; default:
                     synthetic speech, with words to probe
  --text             Kaldi text of the audio: of a fine-tuned model (ForCTC) its own CTC loss
                     is trained on, too; without it no labels are used
  --crop_seconds     length of the crops that the audio is cut into (4); with --text the
                     longest recording that is used (20)
  --tag              name of this run's directories; default: that of the model
  --target           fraction of the encoder to remove (0.5)
  --targets          instead, several, rising, as \"0.5 0.72\": each goes on from the one before
  --target_kind      params | macs | latency, or several as params+macs
  --method           l0, or baselines to compare with (several with blanks between):
                     iterative feedback magnitude random blocks small_distilled
  --round_to         keep multiples of so many units and dimensions, as 8 (stage 3)
  --seed             of the trainings; default: that of their configs
  --prune_config     of stage 2
  --prune_args       further options of stage 2
  --distil_config    of stage 4
  --distil_args      further options of stage 4
  --probes           of stage 5, as \"NAME=KIND:TRAIN:TEST ...\", Kaldi directories; kinds:
                     words speakers verify characters queries (docs/ssl.md)
  --measure_args     further options of stage 6
  --nj               processes of stage 1
  --ngpu             GPUs to train on (0: CPU), of each machine; several train with DDP
  --cuda_cmd         starts trainings, as \"/path/of/utils/slurm.pl --config FILE\" of
                     an ESPnet checkout; default: here
  --num_nodes        machines to train on; several need --cuda_cmd
"
stage=1 stop_stage=7 skip_stages="" preset=default
model="" audio="" text="" crop_seconds="" tag="" target="" targets="" target_kind=params
method=l0 round_to=1 seed="" prune_config=conf/ssl/prune.yaml prune_args=""
distil_config=conf/ssl/distil.yaml distil_args="" probes="" measure_args=""
nj=2 ngpu=0 cuda_cmd="" num_nodes=1 family=ssl
recipe='./run.sh --family ssl'
. local/parse_options.sh
[ "${family}" = ssl ] || die "--family ${family}: ssl, or leave it out"
rungs=$(check_options)
targets=${targets:-${target:-0.5}}
nothing=1
for number in 1 2 3 4 5 6 7; do ! runs "${number}" || nothing=; done
[ -z "${nothing}" ] ||
    die "--stage ${stage} --stop_stage ${stop_stage}: no stage lies there -> see ./run.sh --family ssl --help"
note="" synth=(--train 1200 --dev 240 --test 120) words=(--train 600 --dev 1 --test 300)
if [ "${preset}" = quick ]; then
    # In front, so that the user's own options win.
    prune_args="--max_epoch 2 ${prune_args}" distil_args="--max_epoch 2 ${distil_args}"
    synth=(--train 240 --dev 60 --test 30) words=(--train 150 --dev 1 --test 75)
    note="QUICK PRESET: a first look at every stage; no number here is a result."
elif [ "${preset}" != default ]; then
    die "--preset ${preset}: default or quick"
fi
: "${model:=models/small_hubert}"
if [ -z "${tag}" ]; then
    tag=$(basename "${model}")
    [ "${preset}" = default ] || tag+=_${preset}
fi
# shellcheck disable=SC1091
. ./path.sh
dump=dump/ssl/${tag} report=exp/${tag}_report
if [ -z "${audio}" ]; then
    audio=data/${tag}_train spoken=1 words_of=data/${tag}_words
    if [ -z "${probes}" ]; then
        probes="words=words:${words_of}_train:${words_of}_test characters=characters:data/${tag}_dev:data/${tag}_test queries=queries:${words_of}_train:${words_of}_test"
        later=1 # stage 1 makes them
    fi
    note+="${note:+ }Synthetic speech: it shows that the recipe works and nothing about human speech."
fi
compacts=()
while read -r _ _ name; do
    compacts+=(--compact "exp/${tag}_compact_${name}_distilled")
done <<<"${rungs}"
model=$(python3 -m espnet_prune.cli.ssl_check --dense "${model}" --ngpu "$([ -n "${cuda_cmd}" ] && echo 0 || echo "${ngpu}")" \
    --method "${method}" --target_kind "${target_kind}" --targets "${targets}" \
    --prune_config "${prune_config}" "--prune_args=${prune_args}" \
    --distil_config "${distil_config}" "--distil_args=${distil_args}" \
    --text "${text}" --probes "$([ -n "${later:-}" ] || echo "${probes}")" | tail -n 1)

if begin 1 "cut the audio into crops: ${dump}"; then
    if [ -n "${spoken:-}" ]; then
        python3 local/synth_data.py --out data --prefix "${tag}_" --nj "${nj}" "${synth[@]}"
        python3 local/synth_data.py --out data --prefix "${tag}_words_" --nj "${nj}" "${words[@]}" \
            --templates "V N P D"
    fi
    python3 -m espnet_prune.cli.ssl_audio --audio "${audio}" --out "${dump}" \
        --seconds "${crop_seconds:-$([ -n "${text}" ] && echo 20 || echo 4)}" \
        --nj "${nj}" ${text:+--text "${text}"}
fi
if runs 2 || runs 3 || runs 4; then
    python3 -m espnet_prune.cli.ladder --family ssl --elapsed "${SECONDS}" \
        --stages "$(for n in 2 3 4; do ! runs ${n} || printf '%s ' ${n}; done)" \
        --method "${method}" --targets "${targets}" --target_kind "${target_kind}" \
        --round_to "${round_to}" --exp "exp/${tag}" --latency_table "exp/${tag}_latency.json" \
        --prune_config "${prune_config}" "--prune_args=${seed:+--seed ${seed}} ${prune_args}" \
        --finetune_config "${distil_config}" "--finetune_args=${seed:+--seed ${seed}} ${distil_args}" \
        --ngpu "${ngpu}" --cuda_cmd "${cuda_cmd}" --num_nodes "${num_nodes}" \
        --made "${dump}/train/utt2num_samples" "${dump}/valid/utt2num_samples" \
        -- --dense "${model}" --train "${dump}/train" --valid "${dump}/valid" \
        --multiprocessing_distributed true
fi
if ! runs 4 && { runs 5 || runs 6 || runs 7; }; then
    for compact in "${compacts[@]}"; do
        [ "${compact}" = --compact ] || [ -e "${compact}/config.json" ] ||
            die "${compact} is missing -> run stage 4 (./run.sh --family ssl --stage 4 ...)"
    done
fi
if [ -n "${probes}" ] && begin 5 "probe frozen features: ${probes}"; then
    python3 -m espnet_prune.cli.ssl_probe --dense "${model}" "${compacts[@]}" \
        --out "${report}" --probes "${probes}"
fi
if begin 6 "measure parameters, MACs and real-time factors"; then
    # shellcheck disable=SC2086
    python3 -m espnet_prune.cli.ssl_measure --dense "${model}" "${compacts[@]}" \
        --out "${report}" ${measure_args}
fi
if begin 7 "report"; then
    python3 -m espnet_prune.cli.ssl_report --dense "${model}" "${compacts[@]}" \
        --out "${report}" --note "${note}"
fi
printf '[%02d:%02d] finished\n' $((SECONDS / 60)) $((SECONDS % 60))
