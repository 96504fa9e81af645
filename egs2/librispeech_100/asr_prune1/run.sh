#!/usr/bin/env bash
# LibriSpeech, its 100 h of clean training speech: ESPnet's d256 Conformer, 50 % and 70 % of
# its encoder's parameters and MACs removed. Options given here come after, and win:
# --librispeech DIR, --teacher_tag, --ngpu, --stage ... (./recipe.sh --help). Hours to
# expect: docs/librispeech.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./recipe.sh --corpus librispeech --ngpu 2 --nj 16 \
    --data_args "--prefix librispeech_ --download train-clean-100,dev-clean,dev-other,test-clean,test-other --combine dev=dev-clean" \
    --train_set librispeech_train_clean_100 --valid_set librispeech_dev \
    --test_sets "librispeech_test_clean librispeech_test_other librispeech_dev_clean librispeech_dev_other" \
    --speed_perturb "0.9 1.0 1.1" --max_wav_duration 30 --nbpe 5000 \
    --asr_config conf/train_librispeech_100.yaml \
    --prune_config conf/prune_librispeech.yaml --finetune_config conf/finetune_librispeech.yaml \
    --targets "0.5 0.7" \
    --inference_config conf/decode_beam10.yaml "$@"
