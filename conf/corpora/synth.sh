# shellcheck shell=bash disable=SC2034,SC2154
# Synthetic commands, spoken offline by espeak-ng.
: "${fs:=16000}" "${token_type:=bpe}" "${nbpe:=70}"
: "${train_set:=${tag}_train}" "${valid_set:=${tag}_dev}" "${test_sets:=${tag}_test}"
: "${asr_config:=conf/train_small.yaml}"
note=
data_command=(local/synth_data.py --prefix "${tag}_" --nj "${nj}")
