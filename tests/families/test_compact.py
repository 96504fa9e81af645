"""Compact encoders and decoders as ESPnet builds and loads them."""

import copy

import pytest
import torch
from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.families.espnet.attention import SizedAttention
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.compact import Spread, architecture_of, check_dims
from espnet_prune.families.espnet.nets import (
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)
from espnet_prune.pruning.slicing import sliced
from tests.fixtures.encoders import shaken
from tests.fixtures.gated import CASES, assert_same, drawn_values, outputs

every = pytest.mark.parametrize("name", CASES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("conformer", "C C C C<unk>"),
        ("conformer_202611", " AC AC<unk>A"),
        ("transformer", "A<unk>BABAB"),
        ("e_branchformer", "<unk>C <unk>C "),
    ],
)
def test_models_that_were_exported_before_still_load(name, text, request):
    """Directories that older code wrote, under ESPnet 202511 or the one that they are
    named after, and what the models gave for an utterance alone."""
    folder = request.config.rootpath / "tests/fixtures/exported" / name
    files = folder / "config.yaml", folder / "pruned.pth"
    model, _ = load_model(*files)
    # The first one of a batch is the longest: padding changes nothing in it.
    expected = {k: v[:1] for k, v in torch.load(folder / "expected.pth").items()}
    with torch.no_grad():
        encoded, lengths = model.encode(expected["speech"], expected["speech_lengths"])
        tokens = expected["text"], expected["text_lengths"]
        logits, _ = model.decoder(encoded, lengths, *tokens)
    assert lengths.equal(expected["encoded_lengths"])
    torch.testing.assert_close(encoded, expected["encoded"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=1e-5)
    decode = Speech2Text(*files, beam_size=2, ctc_weight=0.8, lm_weight=0.0)
    assert decode(expected["speech"][0])[0][0] == text


@every
def test_without_an_architecture_it_is_espnets(name):
    gated = CASES[name].make()
    ours = gated.ours(None).double()
    ours.load_state_dict(gated.stock.state_dict(), strict=True)
    x = gated.inputs(50, 31)
    assert_same(outputs(ours, x), outputs(gated.stock, x), 1e-12)


@every
@pytest.mark.parametrize("change", ["misses", "adds"])
@pytest.mark.parametrize("strict", [True, False])
def test_wrong_checkpoint_is_refused_however_it_is_loaded(name, change, strict):
    """ESPnet loads with strict=False and drops the result."""
    gated = CASES[name].make()
    compact = gated.compact(drawn_values(gated.layout, 0, modules=1.0))
    state = compact.state_dict()
    key = next(k for k in state if "coders.1." in k and k.endswith("linear_q.bias"))
    if change == "misses":
        del state[key]
    else:
        state[key := key.replace("1", "2", 1)] = torch.zeros(1)
    whole = torch.nn.ModuleDict({"part": compact})
    for module, prefix in ((compact, ""), (whole, "part.")):
        named = {prefix + k: v for k, v in state.items()}
        with pytest.raises(RuntimeError, match=f"{change} 1 key.*{key}"):
            module.load_state_dict(named, strict=strict)


@every
def test_what_is_cut_shares_no_memory_and_no_gates(name):
    gated = CASES[name].make()
    own = drawn_values(gated.layout, 0)
    state = gated.module.state_dict()
    left = sliced(gated.layout, state, own)
    places = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert not places & {t.untyped_storage().data_ptr() for t in left.values()}
    assert all(t.is_contiguous() and not t.requires_grad for t in left.values())
    assert left.keys() <= gated.stock.state_dict().keys()


def changed(architecture, path, value):
    *path, last = path
    place = architecture = copy.deepcopy(architecture)
    for key in path:
        place = place[key]
    place[last] = value
    return architecture


@pytest.mark.parametrize(
    ("name", "path", "value", "told"),
    [
        ("conformer", ("subsampling", 0), 0, "subsampling.0 must be .* >= 1, not 0"),
        ("conformer", ("subsampling", 1), 2.0, "subsampling.1 must be an integer"),
        ("conformer", ("subsampling", 1), 17, "subsampling.1 is 17, the dense .* 16"),
        ("conformer", ("subsampling",), [3], "subsampling must list 2 entries"),
        ("conformer", ("blocks", 0, "ffn1"), -1, r"blocks.0.ffn1 must be .* not -1"),
        ("conformer", ("blocks", 1, "heads"), "2", "blocks.1.heads must be an int"),
        ("conformer", ("blocks", 1, "heads"), True, "blocks.1.heads must be an int"),
        ("conformer", ("blocks", 1, "qk_dim"), 5, "blocks.1.qk_dim is 5, the .* 4"),
        ("conformer", ("blocks", 0, "ffn2"), None, "blocks.0.ffn2 must .*, not None"),
        ("conformer", ("blocks", 0), 7, "blocks.0.ffn1 must be an integer"),
        ("conformer", ("blocks",), None, "blocks must list 2 entries, not None"),
        ("conformer", ("kind",), "transformer", "is 'transformer', not 'conformer'"),
        ("transformer", ("kind",), "rnn", "its kind is 'rnn', not 'transformer'"),
        ("transformer", ("dims",), [0, 1], "no dims of this kind"),
        ("e_branchformer", ("blocks", 1, "attn_out"), 17, "attn_out is 17, the"),
        ("e_branchformer", ("blocks", 1, "cgmlp"), 1.5, "blocks.1.cgmlp must be"),
        ("decoder", ("decoder", 0, "ffn"), -1, "decoder.0.ffn must be an integer"),
        ("decoder", ("decoder", 1, "self_heads"), 5, "self_heads is 5, the dense"),
        ("decoder", ("decoder",), [], "decoder must list 2 entries"),
        *(
            ("conformer", ("dims",), dims, "dims must be a list of rising indices")
            for dims in ([], [3, 1], [1, 1], [-1, 2], [0.5], [False, True], 8, "8")
        ),
        ("conformer", ("dims",), [2, 16], "dims go up to 16, the dense .* 16 channels"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_by_name(name, path, value, told):
    gated = CASES[name].make()
    sizes = architecture_of(gated.layout, gated.open())
    with pytest.raises(ValueError, match=f"architecture: .*{told}"):
        gated.ours(changed(sizes, path, value))
    gated.ours(sizes)


def test_outputs_are_where_they_were_in_the_dense_model():
    check_dims([1, 2, 4], 5)
    spread = Spread((1, 2, 4), 5)
    assert spread(torch.tensor([[1.0, 2, 3]])).tolist() == [[0.0, 1, 2, 0, 3]]
    assert not spread.state_dict()  # ESPnet's average of epochs adds integers up


def attend(layer, mask):
    """Into the same noise, with the same dropout."""
    torch.manual_seed(3)
    x, positions = torch.randn(2, 5, 16), torch.randn(1, 9, 16)
    more = (positions, mask) if hasattr(layer, "linear_pos") else (mask,)
    return layer(x, x, x, *more)


@pytest.mark.parametrize(
    "kind", [RelPositionMultiHeadedAttention, MultiHeadedAttention]
)
def test_attention_in_its_own_sizes_is_espnets(kind):
    stock = shaken(kind(4, 16, 0.3))
    sized = SizedAttention(stock, 4, 4, 4)
    mask = torch.tensor([[[True, True, True, False, False]], [[False] * 5]])
    for given in (None, mask):
        torch.testing.assert_close(attend(sized, given), attend(stock, given))
    out = attend(sized, mask)  # the second utterance has no key
    torch.testing.assert_close(out[1], stock.linear_out.bias.expand(5, -1))
    out.sum().backward()
    assert stock.linear_q.weight.grad.isfinite().all()
