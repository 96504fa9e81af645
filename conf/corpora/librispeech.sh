# shellcheck shell=bash disable=SC2034,SC2154
# A directory laid out as LibriSpeech: any subsets, FLAC and *.trans.txt.
: "${fs:=16000}" "${token_type:=bpe}" "${nbpe:=5000}"
: "${train_set:=${tag}_train_clean_100}" "${valid_set:=${tag}_dev_clean}"
: "${test_sets:=${tag}_test_clean}"
: "${asr_config:=conf/train_librispeech_100.yaml}"
note=
if runs 1; then
    if [ -z "${librispeech}" ] && [[ ${data_args} == *--download* ]]; then
        librispeech=${downloads}
    else
        [ -n "${librispeech}" ] ||
            die '--corpus librispeech needs --librispeech DIR, the directory that holds LibriSpeech, or --data_args "--download SUBSETS"'
        [ -d "${librispeech}" ] || die "--librispeech ${librispeech}: no such directory"
    fi
fi
data_command=(bash local/librispeech_data.sh --prefix "${tag}_" --librispeech "${librispeech}")
