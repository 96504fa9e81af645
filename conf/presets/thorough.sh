# shellcheck shell=bash disable=SC2034,SC2154
# For numbers that are to mean something: more epochs of everything, a larger test set.
: "${measure_args:=--utts 30 --rounds 5}"
# In front, so that the user's own options win.
prune_args="--max_epoch 20 ${prune_args}"
finetune_args="--max_epoch 8 ${finetune_args}"
# What was best there (docs/findings.md), of the recipe's own dense Conformers.
if [[ ${corpus} =~ ^(synth|digits)$ && -z ${asr_config}${teacher_config}${teacher_tag} ]]; then
    prune_args="--gates model_dim=true ${prune_args}"
fi
case ${corpus} in
    synth) : "${data_args:=--test 4000}"; asr_args="--max_epoch 30 ${asr_args}" ;;
esac
preset_note=""
