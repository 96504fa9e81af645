"""CTC prefix beam search: held against all paths, the attention decoder, an n-gram."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.serving import load as loading
from espnet_prune.serving.beam import BeamOptions, BeamSpeech2Text, Search
from espnet_prune.serving.decoders import read_search
from espnet_prune.serving.greedy import GreedyDecoder, collapse, posteriors
from espnet_prune.serving.load import load

TOKENS = ["<blank>", "a", "b", "c"]
WIDE = BeamOptions(beam_size=400, beam_threshold=1e4)


def of_all_paths(log_probs):
    """The log probability of each labelling, by adding up all paths."""
    found = {}
    frames, tokens = log_probs.shape
    for path in itertools.product(range(tokens), repeat=frames):
        score = sum(float(log_probs[t, k]) for t, k in enumerate(path))
        ids = tuple(collapse(torch.tensor(path), 0))
        found[ids] = float(
            torch.tensor([found.get(ids, -math.inf), score]).logsumexp(0)
        )
    return found


@given(seed=st.integers(0, 999), frames=st.integers(1, 5), sharp=st.floats(0.1, 4))
@settings(max_examples=25)
def test_a_wide_beam_finds_every_labelling_with_its_probability(seed, frames, sharp):
    draw = torch.Generator().manual_seed(seed)
    log_probs = (sharp * torch.randn(frames, 4, generator=draw)).log_softmax(-1)
    found = Search(TOKENS, 0, WIDE)(log_probs)
    expected = of_all_paths(log_probs)
    assert found.keys() == expected.keys()
    for ids, score in expected.items():
        assert found[ids] == pytest.approx(score, abs=1e-3)


def test_an_n_gram_decides_between_what_sounds_alike(tmp_path):
    lm = tmp_path / "bigram.arpa"
    lm.write_text(
        "\\data\\\nngram 1=6\nngram 2=2\n\n\\1-grams:\n-1\t<s>\t0\n-1\t</s>\n"
        "-2\t<unk>\n-1\ta\t0\n-1\tb\t0\n-1\tc\t0\n\n"
        "\\2-grams:\n-0.1\ta c\n-3\ta b\n\n\\end\\\n"
    )
    log_probs = torch.tensor(
        [[0.02, 0.9, 0.04, 0.04], [0.02, 0.02, 0.5, 0.46], [0.97, 0.01, 0.01, 0.01]]
    ).log()

    def best(**options):
        found = Search(TOKENS, 0, BeamOptions(**options))(log_probs)
        return max(found, key=found.get)

    assert best() == (1, 2) and best(lm=str(lm), lm_weight=0.5) == (1, 3)
    assert best(lm=str(lm), lm_weight=0.0) == (1, 2)
    lm.write_text("nonsense")
    with pytest.raises(InputError, match="bigram.arpa: cannot be read"):
        best(lm=str(lm))


@pytest.fixture(scope="module")
def heard(dense):
    """A model that hears something in noise, by decoder options; and noise."""
    audio = torch.randn(20000, generator=torch.Generator().manual_seed(2))

    def make(**options):
        decoder = load(dense / "config.yaml", dense / "model.pth", **options)
        draw = torch.Generator().manual_seed(3)
        head = decoder.asr_model.ctc.ctc_lo.weight
        head.data = torch.randn(head.shape, generator=draw)
        return decoder

    return make, audio


def test_scores_are_those_of_ctc_and_of_the_attention_decoder(heard):
    make, audio = heard
    decoder = make(ctc_beam={"beam_size": 8, "ctc_weight": 0.3}, nbest=8)
    model, results = decoder.asr_model, decoder(audio)
    encoded, log_probs = posteriors(model, audio)
    scores = [float(hypothesis.score) for *_, hypothesis in results]
    assert len({tuple(ids) for _, _, ids, _ in results}) == len(results) > 3
    assert scores == sorted(scores, reverse=True)
    for text, tokens, ids, hypothesis in results:
        assert tokens == [model.token_list[i] for i in ids] and isinstance(text, str)
        target, length = torch.tensor([ids]), torch.tensor([len(ids)])
        by_ctc = -torch.nn.functional.ctc_loss(
            log_probs[:, None].detach(), target, torch.tensor([len(log_probs)]), length,
            blank=model.blank_id, reduction="sum",
        )  # fmt: skip
        times = torch.tensor([encoded.shape[1]])
        by_decoder = -model.nll(encoded, times, target, length)[0].detach()
        # A narrow beam drops some paths of a labelling.
        assert 0.3 * by_ctc + 0.7 * by_decoder == pytest.approx(
            float(hypothesis.score), abs=1.0
        )
    alone = make(ctc_beam={"ctc_weight": 1.0})
    ids = alone(audio)[0][2]
    greedy = GreedyDecoder(model)(audio)[0]

    def probability(labels):
        return float(
            torch.nn.functional.ctc_loss(
                log_probs[:, None],
                torch.tensor([labels]),
                (len(log_probs),),
                (len(labels),),
                blank=model.blank_id,
                reduction="sum",
            )  # fmt: skip
        )

    assert len(ids) > 3 and probability(ids) <= probability(greedy) + 1e-4
    assert alone(audio[:100])[0][:3] == ("", [], [])  # too short


def test_a_model_without_a_decoder_is_decoded_by_ctc_alone(make_dense, monkeypatch):
    monkeypatch.setattr(loading, "has_runtime", lambda: False)  # one load is enough
    dense = make_dense(decoder=None, model_conf={"ctc_weight": 1.0})
    audio = torch.randn(20000, generator=torch.Generator().manual_seed(2))
    scores = [
        float(
            load(dense / "config.yaml", dense / "model.pth", ctc_beam=beam)(audio)[0][
                3
            ].score
        )
        for beam in ({"ctc_weight": 0.0}, {"ctc_weight": 1.0})
    ]
    assert scores[0] == scores[1] < 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ctc_beam: {beam: 5}", "no option 'beam'; there are: beam_size, "),
        ("ctc_beam: {beam_size: 0}", "beam_size must be >= 1"),
        ("ctc_beam: {ctc_weight: 2}", r"ctc_weight must be in \[0, 1\]"),
        ("ctc_beam: {beam_threshold: 0}", "beam_threshold must be above 0"),
        ("ctc_beam: {lm: no.arpa}", "lm no.arpa does not exist"),
        ("ctc_beam: {}\nbeam_size: 5", r"\['beam_size'\] do not go with ctc_beam"),
        ("ctc_greedy: false", "ctc_greedy: must be true"),
        ("ctc_weight: 5", r"ctc_weight must be in \[0, 1\], not 5"),
        ("beam_size: five", "beam_size must be of type int, not 'five'"),
        ("beam_size: 0", "beam_size must be at least 1"),
        ("penalty: true", "penalty must be of type float, not True"),
    ],
)
def test_wrong_options_are_refused(tmp_path, text, told):
    (tmp_path / "decode.yaml").write_text(text)
    with pytest.raises(InputError, match=f"decode.yaml: .*{told}"):
        read_search(tmp_path / "decode.yaml")


@pytest.mark.parametrize("text", ["ctc_beam:", "ctc_beam: {}"])
def test_a_key_without_options_asks_for_the_defaults(heard, tmp_path, text):
    (tmp_path / "decode.yaml").write_text(text)
    make, audio = heard
    found = make(**read_search(tmp_path / "decode.yaml"))
    assert isinstance(found, BeamSpeech2Text) and found.beam == BeamOptions()
