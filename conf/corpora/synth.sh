# shellcheck shell=bash disable=SC2034,SC2154
# Synthetic commands, spoken offline by espeak-ng.
: "${fs:=16000}" "${token_type:=bpe}" "${nbpe:=70}"
: "${train_set:=${tag}_train}" "${valid_set:=${tag}_dev}" "${test_sets:=${tag}_test}"
# Noisy and drawn from many voices, it is learnt faster without dropout and SpecAugment, and
# not over-learnt.
if [ -z "${asr_config}" ]; then
    asr_config=conf/train_small.yaml
    asr_args="--encoder_conf dropout_rate=0.0 --encoder_conf positional_dropout_rate=0.0 --specaug none --specaug_conf {} --optim_conf lr=0.002 ${asr_args}"
fi
# Two sizes in half an hour on two cores.
student_args "--max_epoch 4" "--max_epoch 3"
note=
data_command=(python3 local/synth_data.py --prefix "${tag}_" --nj "${nj}")
