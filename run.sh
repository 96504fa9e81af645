#!/usr/bin/env bash
# From data to report: train a dense Conformer, prune it, cut it, compare both.
# Stages only; all computing is in espnet_prune/ and local/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[[ " $* " != *" --family ssl "* ]] || exec local/ssl.sh "$@"

help_message="Usage: ./run.sh [--option value ...]

Stages (1-11 as in ESPnet): 1 data, 2 speed perturbation, 3 format audio, 4 filter,
5 tokens, 10 statistics, 11 train dense, 12 prune, 13 export, 14 fine-tune, 15 decode,
16 score, 17 measure, 18 report; 19, only if asked for: pack.
  --family           ssl: HuBERT, WavLM, wav2vec 2.0 of Hugging Face; options of its own (--help)
  --stage            first stage to run
  --stop_stage       last stage to run
  --skip_stages      stages to leave out, as \"2 5\"
  --preset           default | quick (a first look in minutes) | thorough (over an hour)
Data
  --corpus           synth | digits | commands | librispeech | kaldi
  --downloads        where a corpus is looked for, or downloaded to
  --librispeech      directory that holds LibriSpeech
  --data_args        further options of stage 1's local/<corpus>_data.py
  --train_set        name of the training set under data/
  --valid_set        name of the validation set under data/
  --test_sets        names of the test sets under data/, blanks between
  --speed_perturb    factors of stage 2, as \"0.9 1.0 1.1\"; empty: none
  --fs               sampling rate in Hz
  --format_args      further options of stage 3, as \"--skip_bad --marks drop\"
  --min_wav_duration drop shorter utterances, seconds
  --max_wav_duration drop longer utterances, seconds
  --token_type       bpe | char
  --nbpe             BPE vocabulary size
Training
  --tag              name of this run's sets and experiments; default: the corpus
  --asr_config       of the dense model (ESPnet's training config)
  --asr_args         further options of stage 11
  --teacher_config   config.yaml of a trained ESPnet model to prune instead
  --teacher_model    its weights; skips stages 5, 10 and 11
  --teacher_tag      a published ESPnet model instead: its name in espnet_model_zoo or on
                     Hugging Face, or its zip; skips stages 5 and 10, stage 11 fetches it
  --target           fraction to remove: of the encoder, unless --prune_config says else
  --targets          instead, several, rising, as \"0.5 0.75 0.9\": each goes on from the one before;
                     default: 0.5; \"0.5 0.75\" of what synth, digits, commands train
  --target_kind      params+macs (both, the default) | params | macs | latency
  --round_to         keep multiples of so many units and dimensions, as 8 (stage 13)
  --method           l0, or baselines to compare with (several with blanks between):
                     l0_alone iterative feedback magnitude random blocks low_rank small
                     small_distilled; slimmable: one checkpoint of all --targets
  --prune_config     of stage 12
  --prune_args       further options of stage 12
  --finetune_config  of stage 14
  --finetune_args    further options of stage 14
  --soup             fine-tune so many times, each with a seed of its own, and average what
                     helps on the validation set (a greedy soup); default: 1, without
  --seed             of all trainings; default: that of their configs
Decoding and report
  --inference_config ESPnet's decoding config
  --inference_asr_model  of the dense model, in its directory
  --inference_model  of the compact model: finetuned.pth | pruned.pth
  --precisions       further number formats of the encoder: int8 (CPUs), bf16 (--gpu_inference)
  --measure_args     further options of stage 17
  --license          of the packed model, as cc-by-4.0 (stage 19)
Machine
  --nj               processes, or jobs, of the stages that split their data
  --executor         runs them: local | slurm (an array of jobs)
  --executor_args    of those jobs, as partition=cpu,timeout_min=60,mem_gb=4
  --ngpu             GPUs (0: CPU), of each machine; several train with DDP
  --gpu_inference    true: decode on GPUs, too; default: on CPUs, as ESPnet
  --cuda_cmd         starts trainings, as \"/path/of/utils/slurm.pl --config FILE\" of
                     an ESPnet checkout; default: here
  --num_nodes        machines to train on; several need --cuda_cmd
"
stage=1 stop_stage=18 skip_stages="" preset=default
corpus=synth data_args=""
# shellcheck disable=SC2034  # used by conf/corpora/*.sh
downloads=downloads librispeech=""
train_set="" valid_set="" test_sets="" speed_perturb="" fs="" format_args=""
min_wav_duration=0.1 max_wav_duration=20 token_type="" nbpe=""
tag="" asr_config="" asr_args="" teacher_config="" teacher_model="" teacher_tag=""
target="" targets="" target_kind=params+macs round_to=1 method=l0 prune_config=conf/prune.yaml prune_args=""
finetune_config=conf/finetune.yaml finetune_args="" soup=1 seed=""
inference_config=conf/decode.yaml inference_asr_model=valid.acc.ave.pth
inference_model=finetuned.pth precisions="" measure_args="" license=unknown
nj=2 executor=local executor_args="" ngpu=0 gpu_inference=false cuda_cmd="" num_nodes=1
. local/parse_options.sh

[ "${stage}" != 19 ] || stop_stage=19
# The recipe's own dense models of small corpora show two sizes, and the fastest way to run
# them; others take long enough.
if [ "${preset}" != quick ] && [[ ${corpus} =~ ^(synth|digits|commands)$ ]] &&
    [ -z "${target}${targets}${teacher_config}${teacher_tag}" ]; then
    targets="0.5 0.75"
    [ "${gpu_inference}" = true ] || precisions=${precisions:-int8}
fi
rungs=$(check_options)
targets=${targets:-${target:-0.5}}
[ -z "${teacher_config}" ] || skip_stages+=" 5 10 11"
[ -z "${teacher_tag}" ] || skip_stages+=" 5 10"
split=(--nj "${nj}" --executor "${executor}" --executor_args "${executor_args}")
decode_ngpu=0
[ "${gpu_inference}" = false ] || decode_ngpu=1
if [ -z "${tag}" ]; then
    tag=${corpus}
    [ "${preset}" = default ] || tag+=_${preset}
fi
preset_note="" note="" data_command=()
# shellcheck disable=SC1090
. "conf/presets/${preset}.sh"
# For conf/corpora/*.sh, of small corpora: what their students need beside the default configs.
# The user's own configs are taken as they are. In front: a preset's and the user's options win.
student_args() { # PRUNING FINE_TUNING
    [ "${prune_config}" != conf/prune.yaml ] || prune_args="$1 --optim_conf lr=0.0015 ${prune_args}"
    [ "${finetune_config}" != conf/finetune.yaml ] ||
        finetune_args="$2 --optim_conf lr=0.0015 ${finetune_args}"
}
# shellcheck disable=SC1090
. "conf/corpora/${corpus}.sh"
nothing=1
for number in 1 2 3 4 5 10 11 12 13 14 15 16 17 18 19; do
    if runs "${number}" && { [ "${number}" != 2 ] || [ -n "${speed_perturb}" ]; }; then
        nothing=
    fi
done
[ -z "${nothing}" ] || die "--stage ${stage} --stop_stage ${stop_stage}: no stage lies there -> see ./run.sh --help"
if [ "${executor}" = slurm ] && { runs 3 || runs 10 || runs 15 || runs 16; }; then
    command -v sbatch >/dev/null ||
        die "--executor slurm: there is no sbatch here -> start where jobs are submitted"
fi
# Stage 4 drops long utterances of the validation set: a test set must keep them.
[[ " ${test_sets} " != *" ${valid_set} "* ]] ||
    die "--valid_set ${valid_set}: is a test set, too -> give it a copy of another name"
. ./path.sh
# Hours lie between this and the stages that would notice; it takes some seconds.
echo "checking options, models and machine"
machine=()
if [ -z "${cuda_cmd}" ] && { runs 11 || runs 12 || runs 14; }; then machine+=(--ngpu "${ngpu}"); fi
if [ "${executor}" = local ] && { runs 15 || runs 17; }; then
    machine+=(--precisions "${precisions}" --decode_ngpu "${decode_ngpu}")
fi
! runs 15 || machine+=(--inference_config "${inference_config}")
machine+=(--methods "${method}")
! runs 12 || machine+=(--target_kind "${target_kind}" --targets "${targets}" --prune_config "${prune_config}" "--prune_args=${prune_args}")
! runs 14 || machine+=(--finetune_config "${finetune_config}" "--finetune_args=${finetune_args}" --soup "${soup}")
[ -n "${teacher_tag}" ] || machine+=(--config "${teacher_config:-${asr_config}}")
[ -n "${teacher_tag}" ] || ! runs 11 || machine+=("--asr_args=${asr_args}" --inference_asr_model "${inference_asr_model}")
if [ -n "${teacher_config}" ] && runs 12; then
    machine+=(--teacher_model "${teacher_model}")
    ! runs 3 || machine+=(--fs "${fs}")
fi
python3 -m espnet_prune.cli.check_early "${machine[@]}"

asr_args="--frontend_conf fs=${fs} ${seed:+--seed ${seed}} ${asr_args}"
prune_args="${seed:+--seed ${seed}} ${prune_args}"
finetune_args="${seed:+--seed ${seed}} ${finetune_args}"
sp_set=${train_set}${speed_perturb:+_sp}
tokens=data/token_list/${tag}_${token_type}
[ "${token_type}" != bpe ] || tokens+=${nbpe}
token_args=(--token_list "${tokens}/tokens.txt" --token_type "${token_type}")
[ "${token_type}" != bpe ] || token_args+=(--bpemodel "${tokens}/bpe.model")
stats=exp/${tag}_stats
# What is made of the dense model goes there, wherever the model itself is.
dense=exp/${tag}_dense
if [ -n "${teacher_tag}" ]; then
    name=${teacher_tag%.zip}
    [[ ${teacher_tag} != *.zip ]] || name=$(basename "${name}")
    fetched=exp/${name//[^A-Za-z0-9._-]/_}
    teacher_config=${fetched}/config.yaml
    teacher_model=${fetched}/model.pth
elif [ -z "${teacher_config}" ]; then
    teacher_config=${dense}/config.yaml
    teacher_model=${dense}/${inference_asr_model}
fi
# Every method goes up the ladder of targets; each rung has directories of its own.
pruned=() goals=() compacts=()
while read -r _ name goal; do
    pruned+=("exp/${tag}_pruned_${name}") goals+=("${goal}") compacts+=("exp/${tag}_compact_${goal}")
done <<<"${rungs}"
decode_tag=decode_$(basename "${inference_config}" .yaml)
tag_in() { # precision
    echo "${decode_tag}$([ "$1" = fp32 ] || echo "_$1")"
}

need() { # stage that makes them, files...
    local made_by=$1 file; shift
    for file in "$@"; do
        [ -e "${file}" ] || die "${file} is missing -> run stage ${made_by} (./run.sh --stage ${made_by} ...)$(hint "${file}")"
    done
}
hint() { # file: a set of another name may stand beside it
    local root
    case $1 in
        data/token_list/*) echo "; the options that name it: --tag, --token_type, --nbpe"; return ;;
    esac
    case $1 in data/*) root=data ;; dump/raw/*) root=dump/raw ;; *) return ;; esac
    [ ! -d "${root}" ] ||
        echo "; there are: $(cd "${root}" && printf '%s\n' */ | grep -vxE '(org|token_list)/' |
            tr '\n' ' ')(--train_set, --valid_set, --test_sets)"
}
audio() { # set; ESPnet's LibriSpeech recipe dumps archives, ours single files
    local type=sound
    ! grep -qs 'ark$' "dump/raw/$1/audio_format" || type=kaldi_ark
    echo "dump/raw/$1/wav.scp,speech,${type}"
}
launch=(--ngpu "${ngpu}" --cuda_cmd "${cuda_cmd}" --num_nodes "${num_nodes}")
data=(--resume true --multiprocessing_distributed true
    --train_data_path_and_name_and_type "$(audio "${sp_set}")"
    --train_data_path_and_name_and_type "dump/raw/${sp_set}/text,text,text"
    --valid_data_path_and_name_and_type "$(audio "${valid_set}")"
    --valid_data_path_and_name_and_type "dump/raw/${valid_set}/text,text,text")
# What no stage of this run makes must be there, before hours are spent on the others.
if ! runs 4 && { runs 5 || runs 10 || { runs 11 && [ -z "${teacher_tag}" ]; } || runs 12 || runs 14; }; then
    need 4 "dump/raw/${sp_set}/utt2num_samples" "dump/raw/${valid_set}/utt2num_samples"
fi
if ! runs 3 && { runs 15 || runs 17; }; then
    for set in ${test_sets}; do need 3 "dump/raw/${set}/wav.scp"; done
fi

# First, before hours are spent on data for a model that cannot be had.
if [ -n "${teacher_tag}" ] && begin 11 "fetch ${teacher_tag} to ${fetched}"; then
    python3 -m espnet_prune.cli.fetch_teacher --tag "${teacher_tag}" --out "${fetched}"
    python3 -m espnet_prune.cli.check_early "${machine[@]}" --config "${teacher_config}" \
        --teacher_model "${teacher_model}" --fs "${fs}"
fi
if begin 1 "prepare ${corpus} as data/{${train_set},${valid_set},${test_sets// /,}}"; then
    # shellcheck disable=SC2086
    "${data_command[@]}" --out data ${data_args}
    for set in ${train_set} ${valid_set} ${test_sets}; do
        [ -d "data/${set}" ] || die "data/${set} is not what stage 1 made$(hint "data/${set}")"
    done
fi
if [ "${teacher_config}" != "${dense}/config.yaml" ] && runs 3; then
    python3 -m espnet_prune.cli.check_early --config "${teacher_config}" \
        --data "data/${train_set}" "data/${valid_set}"
fi
if [ -n "${speed_perturb}" ] && begin 2 "perturb the speed: ${speed_perturb}"; then
    need 1 "data/${train_set}"
    python3 -m espnet_prune.cli.perturb_speed --in "data/${train_set}" \
        --out "data/${sp_set}" --factors "${speed_perturb}"
fi
if begin 3 "format the audio at ${fs} Hz as dump/raw"; then
    [ -z "${speed_perturb}" ] || need 2 "data/${sp_set}"
    # shellcheck disable=SC2086
    for set in ${sp_set} ${valid_set}; do
        need 1 "data/${set}"
        python3 -m espnet_prune.cli.format_audio --in "data/${set}" \
            --out "dump/raw/org/${set}" --fs "${fs}" "${split[@]}" ${format_args}
    done
    # shellcheck disable=SC2086
    for set in ${test_sets}; do
        need 1 "data/${set}"
        python3 -m espnet_prune.cli.format_audio --in "data/${set}" \
            --out "dump/raw/${set}" --fs "${fs}" "${split[@]}" ${format_args}
    done
fi
if begin 4 "drop utterances outside ${min_wav_duration}-${max_wav_duration} s"; then
    for set in ${sp_set} ${valid_set}; do
        need 3 "dump/raw/org/${set}"
        python3 -m espnet_prune.cli.filter_data --in "dump/raw/org/${set}" \
            --out "dump/raw/${set}" --min_seconds "${min_wav_duration}" \
            --max_seconds "${max_wav_duration}"
    done
fi
if begin 5 "make the tokens in ${tokens}"; then
    python3 -m espnet_prune.cli.make_tokens --text "dump/raw/${sp_set}/text" \
        --type "${token_type}" --nbpe "${nbpe}" --out "${tokens}"
fi
if begin 10 "collect statistics in ${stats}"; then
    need 5 "${tokens}/tokens.txt"
    # shellcheck disable=SC2086
    python3 -m espnet_prune.cli.collect_stats --train "dump/raw/${sp_set}" \
        --valid "dump/raw/${valid_set}" --out "${stats}" "${split[@]}" \
        --config "${asr_config}" "${token_args[@]}" ${asr_args}
fi
if [ -z "${teacher_tag}" ] && begin 11 "train the dense model in ${dense}"; then
    need 5 "${tokens}/tokens.txt"
    need 10 "${stats}/train/speech_shape"
    mvn=()
    if grep -q "^normalize: *global_mvn" "${asr_config}"; then
        mvn=(--normalize_conf "stats_file=${stats}/train/feats_stats.npz")
    fi
    # shellcheck disable=SC2086
    python3 -m espnet_prune.cli.progress --log "${dense}/train.log" "${launch[@]}" -- \
        python3 -m espnet_prune.cli.asr_train --output_dir "${dense}" --ngpu "${ngpu}" \
        --config "${asr_config}" "${token_args[@]}" "${mvn[@]}" "${data[@]}" \
        --train_shape_file "${stats}/train/speech_shape" \
        --train_shape_file "${stats}/train/text_shape.${token_type}" \
        --valid_shape_file "${stats}/valid/speech_shape" \
        --valid_shape_file "${stats}/valid/text_shape.${token_type}" ${asr_args}
fi
if runs 12 || runs 13 || runs 14; then
    # A student needs the lengths of its data only, no statistics: stage 10 can be skipped.
    python3 -m espnet_prune.cli.ladder --family espnet --elapsed "${SECONDS}" \
        --stages "$(for n in 12 13 14; do ! runs ${n} || printf "%s " ${n}; done)" \
        --method "${method}" --targets "${targets}" --target_kind "${target_kind}" \
        --round_to "${round_to}" --exp "exp/${tag}" --latency_table "${dense}/latency.json" \
        --prune_config "${prune_config}" "--prune_args=${prune_args}" \
        --finetune_config "${finetune_config}" "--finetune_args=${finetune_args}" \
        --soup "${soup}" --made "${teacher_config}" "${teacher_model}" "${launch[@]}" -- "${data[@]}" \
        --train_shape_file "dump/raw/${sp_set}/utt2num_samples" \
        --valid_shape_file "dump/raw/${valid_set}/utt2num_samples" \
        --teacher_config "${teacher_config}" --teacher_model "${teacher_model}"
fi
[ "${inference_model}" = pruned.pth ] && made_by=13 || made_by=14
results=("${dense}" "${compacts[@]}")
models=("${teacher_config}:${teacher_model}")
for compact in "${compacts[@]}"; do
    models+=("${compact}/config.yaml:${compact}/${inference_model}")
done
if begin 15 "decode ${test_sets} with ${inference_config}"; then
    need 11 "${teacher_config}" "${teacher_model}"
    need "${made_by}" "${compacts[@]/%//${inference_model}}"
    for i in "${!models[@]}"; do
        for set in ${test_sets}; do
            for precision in fp32 ${precisions}; do
                python3 -m espnet_prune.cli.decode --config "${models[i]%%:*}" \
                    --model "${models[i]#*:}" --data "dump/raw/${set}" "${split[@]}" \
                    --inference_config "${inference_config}" \
                    --out "${results[i]}/$(tag_in "${precision}")/${set}" \
                    --precision "${precision}" --ngpu "${decode_ngpu}"
            done
        done
    done
fi
if begin 16 "score"; then
    for set in ${test_sets}; do
        for precision in fp32 ${precisions}; do
            need 15 "${results[@]/%//$(tag_in "${precision}")/${set}/text}"
        done
    done
    systems=()
    while read -r name _ goal; do
        systems+=(--"$([ "${name}" = l0 ] && echo compact || echo baseline)" "exp/${tag}_compact_${goal}")
        [ "${name}" = l0 ] || systems+=("exp/${tag}_compact_${goal#"${name}_"}")
    done <<<"${rungs}"
    python3 -m espnet_prune.cli.score_systems --dense "${dense}" "${systems[@]}" \
        --data dump/raw --test_sets "${test_sets}" --decode_tag "${decode_tag}" \
        --precisions "${precisions}" "${split[@]}"
fi
if begin 17 "measure parameters, MACs and real-time factors"; then
    need 11 "${teacher_config}" "${teacher_model}"
    need "${made_by}" "${compacts[@]/%//${inference_model}}"
    systems=(--system "dense=${models[0]}:${dense}")
    for i in "${!goals[@]}"; do
        systems+=(--system "${goals[i]}=${models[i + 1]}:${compacts[i]}")
    done
    # shellcheck disable=SC2086
    python3 -m espnet_prune.cli.measure "${systems[@]}" --data "dump/raw/${test_sets%% *}" \
        --inference_config "${inference_config}" --precisions "${precisions}" ${measure_args}
fi
if begin 18 "report"; then
    need 13 "${compacts[@]/%//pruning.json}"
    systems=()
    for compact in "${compacts[@]}"; do systems+=(--compact "${compact}"); done
    for name in "${pruned[@]}"; do systems+=(--pruned "${name}"); done
    python3 -m espnet_prune.cli.report --corpus "${corpus}" --dense "${dense}" \
        --dense_training "$(dirname "${teacher_config}")" "${systems[@]}" \
        --decode_tag "${decode_tag}" --precisions "${precisions}" \
        --test_sets "${test_sets}" --out "exp/${tag}_report" \
        --note "${preset_note}${note:+${preset_note:+ }${note}}"
fi
if begin 19 "pack"; then
    need "${made_by}" "${compacts[@]/%//${inference_model}}"
    for compact in "${compacts[@]}"; do
        python3 -m espnet_prune.cli.pack --compact "${compact}" --model "${inference_model}" \
            --license "${license}" --out "${compact}/$(basename "${compact}").zip" \
            --corpus "${corpus}" --dense "${dense}" --decode_tag "${decode_tag}" \
            --precisions "${precisions}" --test_sets "${test_sets}" \
            --note "${preset_note}${note:+${preset_note:+ }${note}}"
    done
fi
printf '[%02d:%02d] finished\n' $((SECONDS / 60)) $((SECONDS % 60))
