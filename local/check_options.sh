# shellcheck shell=bash disable=SC2154,SC2086
# Source me: refuses wrong options of run.sh in one line each, before any work.
die() { echo "error: $1" >&2; exit 2; }
is_method() { grep -q "^$1 .*\b$2\b" <<<"${methods}"; } # name, property
[ -e "conf/corpora/${corpus}.sh" ] || die "--corpus ${corpus}: unknown -> one of: $(cd conf/corpora && echo *.sh | sed 's/\.sh//g')"
[ -e "conf/presets/${preset}.sh" ] || die "--preset ${preset}: unknown -> one of: $(cd conf/presets && echo *.sh | sed 's/\.sh//g')"
[ "${stage}" != 19 ] || stop_stage=19
[[ ${stage} =~ ^[0-9]+$ && ${stop_stage} =~ ^[0-9]+$ ]] ||
    die "--stage ${stage} --stop_stage ${stop_stage}: they take numbers"
[[ ${skip_stages} =~ ^[0-9\ ]*$ ]] || die "--skip_stages ${skip_stages}: numbers, blanks between, as \"2 5\""
[[ ${seed} =~ ^[0-9]*$ ]] || die "--seed ${seed}: give a number"
[[ ${round_to} =~ ^[1-9][0-9]*$ ]] || die "--round_to ${round_to}: give a number from 1 on"
[[ ${nj} =~ ^[1-9][0-9]*$ ]] || die "--nj ${nj}: give a number of processes"
[[ ${inference_model} =~ ^(finetuned|pruned)\.pth$ ]] ||
    die "--inference_model ${inference_model}: finetuned.pth (of stage 14) or pruned.pth (of stage 13)"
[[ ${ngpu} =~ ^[0-9]+$ ]] || die "--ngpu ${ngpu}: give a number of GPUs"
[[ ${executor} =~ ^(local|slurm)$ ]] || die "--executor ${executor}: local or slurm"
[[ ${executor_args} =~ ^([A-Za-z_]+=[^,]+(,|$))*$ ]] ||
    die "--executor_args ${executor_args}: give KEY=VALUE,..., as partition=cpu,mem_gb=4"
if [ -n "${cuda_cmd}" ]; then
    command -v "${cuda_cmd%% *}" >/dev/null ||
        die "--cuda_cmd ${cuda_cmd%% *}: is no program -> give its path, as /path/of/utils/slurm.pl"
fi
[[ ${num_nodes} =~ ^[1-9][0-9]*$ ]] || die "--num_nodes ${num_nodes}: give a number from 1 on"
[ "${num_nodes}" = 1 ] || [ -n "${cuda_cmd}" ] || die "--num_nodes ${num_nodes}: what starts it there? -> give --cuda_cmd"
[ "${num_nodes}" = 1 ] || [[ ! ${cuda_cmd%% *} =~ (run|ssh)\.pl$ ]] ||
    die "--cuda_cmd ${cuda_cmd%% *}: starts on one machine -> give slurm.pl, or --num_nodes 1"
[ -n "${teacher_config}" ] && given=1 || given=0
[ -n "${teacher_model}" ] && given=$((given + 1))
[ "${given}" != 1 ] || die "--teacher_config and --teacher_model belong together"
[[ ${teacher_tag} != *.zip || ${teacher_tag} == *://* ]] || [ -f "${teacher_tag}" ] ||
    die "--teacher_tag ${teacher_tag}: does not exist"
[ "${given}" = 0 ] || [ -z "${teacher_tag}" ] || die "--teacher_tag ${teacher_tag}: there is --teacher_config, too"
[ -z "${target}" ] || [ -z "${targets}" ] || die "--target ${target}: there is --targets, too"
: "${targets:=${target:-0.5}}"
[ -n "${targets// /}" ] || die "--targets: names none"
[ -n "${method// /}" ] || die "--method: names none"
below=0
for target in ${targets}; do
    [[ ${target} =~ ^0?\.[0-9]*[1-9][0-9]*$ ]] || die "--target, --targets ${target}: give fractions between 0 and 1, as 0.5"
    awk -v a="${below}" -v b="${target}" 'BEGIN { exit !(a < b) }' || die "--targets ${targets}: they must rise"
    below=${target}
done
[ -z "$(printf '%s\n' ${method} | sort | uniq -d)" ] || die "--method ${method}: names one twice"
# A line for each method: its name, its properties.
methods=$(python3 "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../espnet_prune/config/methods.py")
for name in ${method}; do
    grep -q "^${name}\b" <<<"${methods}" ||
        die "--method ${name}: unknown -> one of: $(cut -d " " -f 1 <<<"${methods}" | xargs)"
    [ "${round_to}" = 1 ] || is_method "${name}" gated ||
        die "--method ${name}: its sizes are even, --round_to ${round_to} is for what is pruned"
done
[ -z "$(printf '%s\n' ${precisions} | sort | uniq -d)" ] || die "--precisions ${precisions}: names one twice"
for name in ${precisions}; do
    [[ ${name} =~ ^(bf16|int8)$ ]] || die "--precisions ${name}: int8 (CPUs) or bf16 (GPUs); fp32 is always there"
done
[[ ${gpu_inference} =~ ^(true|false)$ ]] || die "--gpu_inference ${gpu_inference}: true or false"
[ "${gpu_inference}" = false ] || [[ ! ${precisions} =~ int8 ]] ||
    die "--precisions int8: is for CPUs -> leave out --gpu_inference"
[[ ${target_kind} =~ ^(params|macs|latency)(\+(params|macs|latency))*$ ]] ||
    die "--target_kind ${target_kind}: params, macs, latency, or several as params+macs"
[[ ${min_wav_duration} =~ ^[0-9]*\.?[0-9]+$ ]] || die "--min_wav_duration ${min_wav_duration}: give seconds"
[[ ${max_wav_duration} =~ ^[0-9]*\.?[0-9]+$ ]] || die "--max_wav_duration ${max_wav_duration}: give seconds"
