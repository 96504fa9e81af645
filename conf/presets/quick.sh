# shellcheck shell=bash disable=SC2034,SC2154
# A first look: less data and fewer epochs, the same stages.
: "${measure_args:=--utts 10 --rounds 3}"
# In front, so that the user's own options win.
asr_args="--max_epoch 4 --keep_nbest_models 1 ${asr_args}"
prune_args="--max_epoch 2 ${prune_args}"
finetune_args="--max_epoch 1 --keep_nbest_models 1 ${finetune_args}"
case ${corpus} in
    synth) : "${data_args:=--train 300 --dev 40 --test 60}" ;;
    digits | commands) : "${data_args:=--repeat_train 1 --repeat_dev 1 --repeat_test 1}" ;;
esac
preset_note="QUICK PRESET: a first look at every stage. The models are not trained; no number here is a result."
