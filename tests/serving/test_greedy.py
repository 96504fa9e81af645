"""CTC greedy decoding: as by hand."""

import itertools
from difflib import SequenceMatcher

import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from hypothesis import given
from hypothesis import strategies as st

from espnet_prune.base.files import read_yaml
from espnet_prune.serving.greedy import GreedyDecoder, collapse, first_window
from espnet_prune.serving.load import load


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_path_is_collapsed_as_by_hand(path):
    by_hand = [label for label, _ in itertools.groupby(path) if label != 0]
    assert collapse(torch.tensor(path), 0) == by_hand


def noise(*samples):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=draw) for n in samples]


@pytest.fixture(scope="module", params=["conformer", "transformer"])
def decoder(request, dense, make_dense):
    if request.param == "transformer":
        sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 24}
        dense = make_dense(
            encoder="transformer", encoder_conf=sizes | {"num_blocks": 2}
        )
    model = load(dense / "config.yaml", dense / "model.pth").asr_model
    return GreedyDecoder(model)


def ctc_greedy(model, audio):
    """By ESPnet's encoder and a loop."""
    with torch.no_grad():
        out = model.encode(audio[None], torch.tensor([len(audio)]))[0]
    labels = model.ctc.argmax(out)[0].tolist()
    changed = [a for a, b in itertools.pairwise([*labels, None]) if a != b]
    return [label for label in changed if label != model.blank_id]


def test_it_decodes_as_espnets_encoder_and_a_loop(decoder):
    heard = []
    for samples in noise(9000, 16000, 700, 12345, 4001):
        ids, score = decoder(samples)
        if len(samples) == 700:  # too short for ESPnet's encoder
            assert not ids
            continue
        assert ctc_greedy(decoder.model, samples) == ids and score < 0
        heard += ids
    assert heard


@pytest.mark.parametrize("samples", [0, 1, 100, 128, 129, 600])
def test_audio_too_short_for_the_encoder_says_nothing(decoder, samples):
    assert decoder.model.frontend.stft.n_fft == 256
    assert decoder(torch.randn(samples)) == ([], 0.0)


def test_int8_hears_the_same(dense):
    found = []
    for own in ("fp32", "int8"):
        model = load(dense / "config.yaml", dense / "model.pth", own).asr_model
        # As it was before the test models were shaken: it hears differences.
        conf = read_yaml(dense / "config.yaml")["frontend_conf"]
        model.frontend.logmel.melmat = DefaultFrontend(**conf).logmel.melmat
        head = model.ctc.ctc_lo.weight  # one that hears many tokens in noise
        head.data = torch.randn(head.shape, generator=torch.Generator().manual_seed(3))
        heard = map(GreedyDecoder(model), noise(16000, 9000, 24000))
        found.append([token for ids, _ in heard for token in ids])
    assert len(found[0]) > 20 and len(set(found[0])) > 2
    assert SequenceMatcher(None, *found).ratio() > 0.9


@pytest.mark.parametrize("center", [True, False])
def test_first_window_is_the_shortest_that_espnet_takes(center):
    frontend = DefaultFrontend(center=center)
    fewest = first_window(frontend)
    assert fewest == (257 if center else 512)
    features, _ = frontend(torch.randn(1, fewest), torch.tensor([fewest]))
    assert features.shape[1] > 0
    with pytest.raises(RuntimeError):
        frontend(torch.randn(1, fewest - 1), torch.tensor([fewest - 1]))
    assert first_window(None) == 1
