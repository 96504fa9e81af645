"""ESPnet's Conformer in a loaded model, replaced by ours."""

import argparse

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

from espnet_prune.families.espnet.conformer import PrunableConformerEncoder
from espnet_prune.families.espnet.conversion import with_prunable_encoder


def converted(make_model, **options):
    model = make_model(**options).eval()
    conf = {"encoder_conf": options.get("encoder_conf"), "input_size": None}
    return model, lambda: with_prunable_encoder(model, argparse.Namespace(**conf))


def test_outputs_are_those_of_espnets_encoder(make_model, speech_batch, shake):
    conf = {"output_size": 16, "attention_heads": 4, "linear_units": 32}
    conf |= {"num_blocks": 2, "macaron_style": True, "rel_pos_type": "latest"}
    model, convert = converted(make_model, encoder_conf=conf)
    speech = [speech_batch()[key] for key in ("speech", "speech_lengths")]
    shake(model.encoder)
    with torch.no_grad():
        expected, lengths = model.encode(*speech)
        assert isinstance(convert().encoder, PrunableConformerEncoder)
        actual, own = model.encode(*speech)
    assert torch.equal(own, lengths)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_an_unsupported_conformer_is_kept(make_model):
    conf = {"output_size": 16, "attention_heads": 4, "num_blocks": 1}
    model, convert = converted(make_model, encoder_conf=conf)  # legacy positions
    assert convert() is model
    assert type(model.encoder) is ConformerEncoder
