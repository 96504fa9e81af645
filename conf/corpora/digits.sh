# shellcheck shell=bash disable=SC2034,SC2154
# Strings of 2-7 digits joined from real recordings (Free Spoken Digit Dataset).
: "${fs:=8000}" "${token_type:=bpe}" "${nbpe:=30}"
: "${train_set:=${tag}_train}" "${valid_set:=${tag}_dev}" "${test_sets:=${tag}_test}"
# The default configs at 8 kHz: the same windows, and seconds in a batch; and more epochs,
# for its decoder is learnt late, and an unfinished teacher misleads its student. The user's
# own config is taken as it is.
if [ -z "${asr_config}" ]; then
    asr_config=conf/train_small.yaml
    asr_args="--frontend_conf n_fft=256 --frontend_conf win_length=200 --frontend_conf hop_length=80 --batch_bins 200000 --max_epoch 36 ${asr_args}"
fi
student_args "--batch_bins 240000" "--batch_bins 240000"
# The default is made; a name of the user's own that is not there is mistyped.
! runs 1 || [ "${downloads}" = downloads ] || [ -d "${downloads}" ] ||
    die "--downloads ${downloads}: no such directory -> make it, or check its name"
note="Free Spoken Digit Dataset: six speakers, all of them in the training set."
data_command=(python3 local/digits_data.py --prefix "${tag}_" --downloads "${downloads}" --fs "${fs}")
