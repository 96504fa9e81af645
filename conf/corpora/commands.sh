# shellcheck shell=bash disable=SC2034,SC2154
# Strings of 2-6 of ten words, joined from real recordings of some 240 speakers (Speech
# Commands); those of the tests are in no other set.
: "${fs:=16000}" "${token_type:=bpe}" "${nbpe:=30}"
: "${train_set:=${tag}_train}" "${valid_set:=${tag}_dev}" "${test_sets:=${tag}_test}"
# The user's own config is taken as it is.
if [ -z "${asr_config}" ]; then
    asr_config=conf/train_small.yaml
    asr_args="--max_epoch 36 --batch_bins 800000 ${asr_args}"
fi
student_args "--max_epoch 4" "--max_epoch 3"
# The default is made; a name of the user's own that is not there is mistyped.
! runs 1 || [ "${downloads}" = downloads ] || [ -d "${downloads}" ] ||
    die "--downloads ${downloads}: no such directory -> make it, or check its name"
note=
data_command=(python3 local/commands_data.py --prefix "${tag}_" --downloads "${downloads}" --fs "${fs}")
