# shellcheck shell=bash disable=SC2034,SC2154
# The user's own Kaldi data directories: --data_args "--train D --dev D --test D".
: "${fs:=16000}" "${token_type:=bpe}" "${nbpe:=500}"
: "${train_set:=${tag}_train}" "${valid_set:=${tag}_dev}" "${test_sets:=${tag}_test}"
: "${asr_config:=conf/train_small.yaml}"
note=
if [ -z "${data_args}" ] && runs 1; then
    die '--corpus kaldi needs --data_args "--train DIR --dev DIR --test DIR", Kaldi data directories'
fi
data_command=(python3 local/kaldi_data.py --prefix "${tag}_")
