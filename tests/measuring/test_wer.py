import io
import json

import jiwer
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.measuring.alignment import alignment_report, trn
from espnet_prune.measuring.metrics import leading
from espnet_prune.measuring.scoring import score_set
from espnet_prune.measuring.wer import Pair, read_pairs, score


def pairs(*texts: tuple[str, str]) -> list[Pair]:
    return [Pair(f"u{i}", ref, hyp) for i, (ref, hyp) in enumerate(texts)]


# One substitution and one insertion; two deletions; one deletion; 10 words.
COUNTED = pairs(("A B C", "A X C D"), ("HELLO WORLD", ""), ("X Y Z Z Y", "X Y Z Y"))


def test_words_counted_by_hand():
    result = score(COUNTED, "word").as_json()
    assert result["error_rate"] == pytest.approx(0.5)
    assert (result["sub"], result["del"], result["ins"]) == (1, 3, 1)
    assert (result["n_units"], result["hits"], result["wrong_utts"]) == (10, 6, 3)
    assert result["utterances"]["u0"] == {
        "n": 3, "hits": 2, "sub": 1, "del": 0, "ins": 1,
    }  # fmt: skip
    assert result["ci95"][0] < 0.5 < result["ci95"][1]


def test_characters_count_the_blank():
    result = score(pairs(("A B", "AB")), "char").as_json()
    assert (result["n_units"], result["del"]) == (3, 1)
    both = [p.ref for p in COUNTED], [p.hyp for p in COUNTED]
    assert score(COUNTED, "char").output.wer == pytest.approx(jiwer.cer(*both))


def test_interval_is_the_same_again_and_never_negative():
    many = pairs(*[("A B C", "A B C")] * 20, ("A B C", "A B X"))
    first, second = score(many, "word"), score(many, "word")
    assert first.ci95 == second.ci95
    assert first.ci95[0] == 0.0 and first.ci95[1] > 1 / 63


def test_empty_reference_keeps_its_insertions_and_a_finite_interval():
    result = score(pairs(("", "A"), ("B", "B")), "word")
    assert result.output.wer == 1.0
    assert result.ci95[1] < float("inf")


sentences = st.lists(st.sampled_from("ABCD"), max_size=6).map(" ".join)


@given(st.lists(sentences.filter(bool), min_size=2, max_size=5))
def test_identical_is_zero(refs):
    same = score(pairs(*zip(refs, refs, strict=True)), "word")
    assert same.output.wer == 0.0
    assert same.ci95 == (0.0, 0.0)


@given(st.lists(st.tuples(sentences.filter(bool), sentences), min_size=1, max_size=5))
def test_alignment_file_adds_up_to_jiwer(texts):
    result = score(pairs(*texts), "word")
    lines = alignment_report(result).splitlines()
    marks = [m for x in lines if x.startswith("Eval: ") for m in x[6:].split()]
    counts = [marks.count(mark) for mark in "SDI"]
    out = jiwer.process_words(*map(list, zip(*texts, strict=True)))
    assert counts == [out.substitutions, out.deletions, out.insertions]
    assert sum(c.errors for c in result.counts) == sum(counts)


def test_alignment_columns():
    text = alignment_report(score(COUNTED, "word"))
    assert "id: (u0)\nScores: (#C #S #D #I) 2 1 0 1\n" in text
    assert "REF:  A B C ***\nHYP:  A X C D\nEval:   S   I\n" in text
    assert "| Sum/Avg  |      3       10 |   60.0   10.0   30.0   10.0   50.0" in text
    head, rule, sums = (x for x in text.splitlines() if x.startswith("|"))
    assert len(head) == len(rule) == len(sums)


def test_trn():
    assert trn(["u0", "u1"], [["A", "B"], []]) == "A B (u0)\n(u1)\n"


def write(path, text):
    path.write_text(text)
    return path


def test_missing_and_extra_ids_are_named(tmp_path):
    ref = write(tmp_path / "ref", "u1 A\nu2 B\n")
    with pytest.raises(InputError, match="1 of 2 utterances have no hyp.*u2"):
        read_pairs(ref, write(tmp_path / "hyp", "u1 A\n"))
    with pytest.raises(InputError, match="1 hypotheses have no reference.*u9"):
        read_pairs(ref, write(tmp_path / "hyp", "u1 A\nu2\nu9 C\n"))
    assert read_pairs(ref, write(tmp_path / "hyp", "u2\nu1 A\n")) == [
        Pair("u1", "A", "A"),
        Pair("u2", "B", ""),
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is empty"), (b"u A\nu B\n", ":2: repeats"), (b"u \xff\n", "UTF-8")],
)
def test_bad_text_files(tmp_path, content, complaint):
    good = write(tmp_path / "good", "u A\n")
    (tmp_path / "bad").write_bytes(content)
    for files in ((good, tmp_path / "bad"), (tmp_path / "bad", good)):
        with pytest.raises(InputError, match=f"bad.*{complaint}"):
            read_pairs(*files)
    with pytest.raises(InputError, match="absent: cannot be read"):
        read_pairs(good, tmp_path / "absent")


def test_blanks_between_words_do_not_matter(tmp_path):
    ref = write(tmp_path / "ref", "u1 A  B\tC\n")
    hyp = write(tmp_path / "hyp", "u1   A B C \n")
    assert read_pairs(ref, hyp) == [Pair("u1", "A B C", "A B C")]


FOLDED = {
    "CAFÉ": "CAFE\u0301",  # composed, and not
    "fin": "\ufb01n",  # a ligature
    "A1": "\uff21\uff11",  # full width
    "A B": "A\u00a0B",
    "C D": "C\u3000\u2028D",
}


@pytest.mark.parametrize(("plain", "other"), FOLDED.items())
def test_text_is_compared_in_one_form(tmp_path, plain, other):
    ref = write(tmp_path / "ref", f"u1 {other}\n")
    hyp = write(tmp_path / "hyp", f"u1 {plain}\n")
    for files in ((ref, hyp), (hyp, ref)):
        ((pair,)) = read_pairs(*files)
        assert pair.ref == pair.hyp == plain


# What SentencePiece folds, and NFKC does not or to something else.
ITS_OWN = (
    "\xa8\xaf\xb4\xb8\u02d8\u02dc\u037a\u0384\u1fbd\u1fee\u200b\u200c\u200e\u200f"
    "\u2017\u203e\u2581\u309b\u309c\ufc5e\ufdfa\ufe49\ufe70\uffe3\ufffd"
)


def test_what_a_bpe_model_writes_meets_its_references(tmp_path):
    """Blanks of no width, accents that stand alone, its own mark."""
    said = [f"CAN{c}T \ufb01n" for c in ITS_OWN]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(said), model_writer=model, model_type="bpe",
        vocab_size=75, character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    bpe = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    written = bpe.decode(bpe.encode(said))
    assert written[10] == "CAN T fin"
    ref = write(tmp_path / "ref", "".join(f"u{i} {x}\n" for i, x in enumerate(said)))
    hyp = write(tmp_path / "hyp", "".join(f"u{i} {x}\n" for i, x in enumerate(written)))
    for files in ((ref, hyp), (hyp, ref)):
        assert {ascii(p.ref) for p in read_pairs(*files) if p.ref != p.hyp} == set()


def test_insertions_without_a_reference_are_in_the_interval():
    """As in a set of calls, most of them silent."""
    spoken = pairs(*[("A B C", "A X C")] * 20)
    silent = [Pair(f"s{i}", "", "X Y" if i % 2 else "") for i in range(40)]
    result = score(spoken + silent, "word")
    low, high = result.ci95
    assert result.rate == pytest.approx(60 / 60) and low < result.rate < high
    assert high > 1.2


def test_what_cannot_be_computed_is_a_dash():
    one = score(pairs(("A B", "A")), "word")
    assert (one.rate, one.ci95, one.told) == (0.5, None, "50.00 %")
    silent = score(pairs(("", "A"), ("", "")), "word")
    assert (silent.rate, silent.ci95, silent.told) == (None, None, "-")
    assert silent.as_json()["ins"] == 1
    assert "interval: -" in alignment_report(silent)
    deaf = score(pairs(("A B", ""), ("C", "")), "word")
    assert deaf.rate == 1.0 and deaf.ci95 == (1.0, 1.0)


def test_a_set_is_scored_and_compared(tmp_path):
    ref = write(tmp_path / "ref", "u1 A B\nu2 C D\n")
    for system, hyp in {"dense": "u1 A B\nu2 C D\n", "compact": "u1 A\nu2\n"}.items():
        (tmp_path / system).mkdir()
        write(tmp_path / system / "text", hyp)
    vs = {"": tmp_path / "dense"}
    with pytest.raises(InputError, match="dense/score_wer.*run stage 16"):
        score_set(ref, tmp_path / "compact/text", vs)
    assert not (tmp_path / "compact/score_wer").exists()
    score_set(ref, tmp_path / "dense/text", {})
    score_set(ref, tmp_path / "compact/text", vs)
    folder = tmp_path / "compact/score_wer"
    assert sorted(p.name for p in folder.iterdir()) == [
        "hyp.trn", "ref.trn", "result.json", "result.txt", "significance.json",
    ]  # fmt: skip
    assert json.loads((folder / "significance.json").read_text())["delta"] == 0.75
    assert (tmp_path / "compact/score_cer/result.json").is_file()


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["今天天气怎么样", "好的"], "CER"),
        (["今 天 天 气", "好 的"], "WER"),  # characters are the words
        (["ฉันไปตลาด"], "CER"),
        (["播放 HELLO 这首歌曲吧"], "CER"),
        (["HELLO WORLD", "ÜBER ÉTÉ"], "WER"),
        (["안녕하세요 세계", "привет мир"], "WER"),
        (["", "123"], "WER"),
    ],
)
def test_characters_lead_where_words_are_not_parted(texts, name):
    assert leading(texts).name == name
