# shellcheck shell=bash disable=SC2034,SC2154
# A directory laid out as LibriSpeech: any subsets, FLAC and *.trans.txt.
: "${fs:=16000}" "${token_type:=bpe}" "${nbpe:=5000}"
: "${train_set:=${tag}_train_clean_100}" "${valid_set:=${tag}_dev_clean}"
: "${test_sets:=${tag}_test_clean}"
: "${asr_config:=conf/train_librispeech_100.yaml}"
note=
if runs 1; then
    [ -n "${librispeech}" ] ||
        die "--corpus librispeech needs --librispeech DIR, the directory that holds LibriSpeech"
    [ -d "${librispeech}" ] || die "--librispeech ${librispeech}: no such directory"
fi
data_command=(local/librispeech_data.py --prefix "${tag}_" --librispeech "${librispeech}")
