"""What ESPnet's import is spared is there once a user's config needs it."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
import typeguard
from espnet2.asr.decoder.hugging_face_transformers_decoder import (
    HuggingFaceTransformersDecoder,
    ModelOutput,
)
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.layers import create_adapter_fn
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.preprocessor import CommonPreprocessor, detect_non_silence
from transformers import BartConfig, BartForConditionalGeneration, Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2EncoderLayer,
    Wav2Vec2EncoderLayerStableLayerNorm,
)
from typeguard import TypeCheckError

from espnet_prune.base import lean

ROOT = Path(__file__).resolve().parents[2]


def test_arguments_of_other_modules_are_checked_as_typeguard_does():
    assert typeguard.typechecked is not lean._typechecked  # it is put back

    @lean._typechecked
    def half(number: int) -> float:
        return number / 2

    @lean._typechecked()
    def count(numbers: list[int]) -> int:
        return len(numbers)

    assert half(3) == 1.5 and count([1, 2]) == 2
    with pytest.raises(TypeCheckError):
        half("3")
    with pytest.raises(TypeCheckError):
        count(2)


def test_what_models_are_made_of_is_checked_and_what_runs_them_is_not():
    checked = [
        "check_argument_types_internal" in function.__code__.co_names
        for function in (
            ConformerEncoder.__init__,
            ESPnetASRModel.__init__,
            AbsTask.main,
            CommonPreprocessor.__init__,
        )
    ]
    assert checked == [True, True, False, False]


# In a process of its own: this one may have imported all of it by now.
NEEDED_LATER = """
import gc, sys, espnet_prune.cli.asr_inference, espnet_prune.cli.prune_train
from espnet2.text.build_tokenizer import build_tokenizer

assert gc.isenabled() and gc.get_freeze_count() > 100_000
later = {"fast_bss_eval", "g2p_en", "nltk", "scipy.stats", "transformers"}
print(*later & {*sys.modules})
tokenizer = build_tokenizer("phn", g2p_type="g2p_en")
print("built", *tokenizer.text2tokens("abc"))
"""


def test_what_few_configs_need_is_imported_for_one_that_does(python, tmp_path):
    # As the real one, which downloads data.
    (tmp_path / "g2p_en.py").write_text(
        "print('imported')\n"
        "class G2p:\n"
        "    def __call__(self, text):\n"
        "        return list(text.upper())\n"
    )
    result = python("-c", NEEDED_LATER, path=f"{tmp_path}:{ROOT}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "\nimported\nbuilt A B C\n"


def test_garbage_is_collected_after_an_import_if_it_was_before():
    gc.disable()
    try:
        with lean.lean():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with lean.lean():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_models_of_hugging_face_are_there_for_a_config_that_names_one(tmp_path):
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = BartForConditionalGeneration(BartConfig(**sizes, **heads))
    bart.save_pretrained(tmp_path)
    decoder = HuggingFaceTransformersDecoder(20, 4, str(tmp_path))
    lengths, tokens = torch.tensor([3]), torch.tensor([[5, 6]])
    hidden, _ = decoder(torch.randn(1, 3, 4), lengths, tokens, torch.tensor([2]))
    assert hidden.shape == (1, 2, 20)
    assert ModelOutput(last_hidden_state=hidden).last_hidden_state is hidden


def test_layers_of_hugging_face_are_told_apart():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = Wav2Vec2Config(**sizes)
    kind = create_adapter_fn.Wav2Vec2EncoderLayerStableLayerNorm
    assert isinstance(Wav2Vec2EncoderLayerStableLayerNorm(config), kind)
    assert not isinstance(Wav2Vec2EncoderLayer(config), kind)


def test_scipy_is_there_for_a_preprocessor_that_filters():
    tone = np.sin(np.arange(4096) / 3)
    speech = np.concatenate([np.zeros(4096), tone])
    found = detect_non_silence(speech, frame_length=256, frame_shift=128)
    assert not found[:3000].any() and found[6000:].all()
