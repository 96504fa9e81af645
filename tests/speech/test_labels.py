"""A fine-tuned self-supervised encoder, pruned under its own CTC loss, too."""

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AutoModelForCTC,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2FeatureExtractor,
)

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table, write_table
from espnet_prune.cli import ssl_audio, ssl_export
from espnet_prune.families.ssl.audio import prepared
from espnet_prune.families.ssl.model import read_head
from espnet_prune.training.ssl_student import PruneSpeechModel
from espnet_prune.training.ssl_task import Spelling
from tests.families.test_speech_encoders import BASE, LARGE, TINY
from tests.speech.training import train

VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B"]


def recognizer(folder, sizes):
    torch.manual_seed(0)
    config = HubertConfig(**TINY, **sizes, vocab_size=len(VOCABULARY))
    HubertForCTC(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    tokens = {token: i for i, token in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return recognizer(tmp_path_factory.mktemp("dense"), BASE)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Recordings with transcripts; one is too long, one has none."""
    folder = tmp_path_factory.mktemp("spoken")
    draw, texts, scp = np.random.default_rng(0), {}, {}
    for i in range(26):
        length = 40000 if i == 25 else 10000 + 300 * i
        file = folder / f"r{i:02d}.wav"
        soundfile.write(file, 0.1 * draw.standard_normal(length), 16000)
        scp[file.stem] = str(file)
        if i != 24:
            texts[file.stem] = "AB BA" if i % 2 else "A"
    write_table(folder / "wav.scp", scp)
    write_table(folder / "text", texts)
    return folder


@pytest.fixture(scope="module")
def crops(spoken, tmp_path_factory):
    out = tmp_path_factory.mktemp("crops") / "dump"
    options = ["--audio", spoken, "--out", out, "--text", spoken / "text"]
    ssl_audio.main([str(x) for x in (*options, "--seconds", 2)])
    return out


def test_recordings_with_transcripts_stay_whole(spoken, crops):
    texts = read_table(crops / "train/text") | read_table(crops / "valid/text")
    lengths = read_table(crops / "train/utt2num_samples")
    lengths |= read_table(crops / "valid/utt2num_samples")
    assert texts.keys() == lengths.keys() and len(texts) == 24
    assert {key: int(n) for key, n in lengths.items()} == {
        f"r{i:02d}-0000": 10000 + 300 * i for i in range(24)
    }


@pytest.mark.parametrize("sizes", [BASE, LARGE], ids=["base", "large"])
def test_loss_is_that_of_the_dense_models_own_class(sizes, tmp_path):
    """With padding, too: the mask reaches the attention, and the lengths the loss."""
    dense = recognizer(tmp_path, sizes)
    student = PruneSpeechModel(str(dense), normalize=True, labels=True).eval()
    speech, lengths = torch.randn(2, 9000), torch.tensor([9000, 7000])
    text, text_lengths = (
        torch.tensor([[5, 6, 4, 5], [6, -1, -1, -1]]),
        torch.tensor([4, 1]),
    )
    with torch.no_grad():
        _, stats, _ = student.losses(speech, lengths, text, text_lengths)
        whole = HubertForCTC.from_pretrained(dense).eval()
        mask = torch.arange(9000) < lengths[:, None]
        audio = prepared(speech, True, lengths)
        labels = text.masked_fill(text < 0, -100)
        wanted = whole(audio, attention_mask=mask.long(), labels=labels).loss / 2
    torch.testing.assert_close(stats["loss_ctc"], wanted)
    assert stats["loss_layer"] == pytest.approx(0, abs=1e-5)


def test_recognizer_is_pruned_under_its_own_loss_and_keeps_its_head(
    dense, crops, tmp_path
):
    run, out = tmp_path / "run", tmp_path / "compact"
    train(dense, crops, run, "prune", "--max_epoch", 2, "--distill", "layers=2")
    state = torch.load(run / "latest.pth")
    head = HubertForCTC.from_pretrained(dense).lm_head.weight
    assert torch.equal(state["head.weight"], head)
    ssl_export.main(["--pruned", str(run), "--out", str(out)])
    train(
        dense, crops, tmp_path / "distil", "distil", "--compact", out, "--max_epoch", 1
    )
    whole = AutoModelForCTC.from_pretrained(tmp_path / "compact_distilled")
    assert torch.equal(whole.lm_head.weight, head)
    assert (tmp_path / "compact_distilled/vocab.json").is_file()


def test_what_labels_need_is_asked_for_before_any_work(dense, tmp_path):
    with pytest.raises(InputError, match="has no vocab.json"):
        Spelling(tmp_path)
    HubertModel(HubertConfig(**TINY, **BASE)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no CTC head"):
        read_head(tmp_path)


def test_what_does_not_fit_is_named(dense, crops, spoken, tmp_path):
    for which in ("train", "valid"):
        folder = tmp_path / "other" / which
        folder.mkdir(parents=True)
        for name in ("wav.scp", "utt2num_samples"):
            (folder / name).write_text((crops / which / name).read_text())
        texts = dict.fromkeys(read_table(crops / which / "text"), "AXB")
        write_table(folder / "text", texts)
    with pytest.raises(InputError, match="characters that the model has not"):
        train(dense, tmp_path / "other", tmp_path / "run", "prune")
    write_table(tmp_path / "text", {"r00": "A"})
    options = ["--audio", spoken, "--out", tmp_path / "x", "--text", tmp_path / "text"]
    with pytest.raises(
        InputError, match="transcripts of 1 of the recordings .'r00' here"
    ):
        ssl_audio.main([str(x) for x in options])
