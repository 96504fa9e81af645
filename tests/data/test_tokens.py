"""Stage 5: the token list, against what ESPnet's own recipe writes."""

import subprocess
import sys

import pytest
import sentencepiece

from espnet_prune.base.errors import InputError

TOKENS = "espnet_prune.cli.make_tokens"
SENTENCES = ["OPEN THE WINDOW", "CLOSE THE DOOR", "CALL ME", "WINDOW OR DOOR", "A CALL"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text("".join(f"u{i} {s}\n" for i, s in enumerate(SENTENCES)) + "u9\n")
    return path


def test_bpe_is_what_espnet_makes(cli, text, tmp_path):
    out, prefix = tmp_path / "out", tmp_path / "ref"
    cli(TOKENS, "--text", text, "--nbpe", 25, "--out", out)
    sentencepiece.SentencePieceTrainer.train(
        input=str(out / "train.txt"),
        vocab_size=25,
        model_type="unigram",
        model_prefix=str(prefix),
        character_coverage=1.0,
        input_sentence_size=100000000,
        minloglevel=2,
    )
    vocab = (tmp_path / "ref.vocab").read_text()
    assert (out / "bpe.vocab").read_text() == vocab
    pieces = [line.split("\t")[0] for line in vocab.splitlines()[3:]]
    tokens = (out / "tokens.txt").read_text().splitlines()
    assert tokens == ["<blank>", "<unk>", *pieces, "<sos/eos>"]
    ours = sentencepiece.SentencePieceProcessor(model_file=str(out / "bpe.model"))
    theirs = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    assert ours.encode(SENTENCES) == theirs.encode(SENTENCES)
    assert (out / "train.txt").read_text().splitlines() == SENTENCES


def test_same_text_gives_the_same_bytes(cli, text, tmp_path, digests):
    for name in ("a", "b"):
        cli(TOKENS, "--text", text, "--nbpe", 25, "--out", tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_char_is_what_espnet_makes(cli, text, tmp_path, monkeypatch):
    cli(TOKENS, "--text", text, "--type", "char", "--out", tmp_path / "out")
    from espnet2.bin.tokenize_text import main

    options = "--token_type char --field 2- --write_vocabulary true".split()
    for symbol in ("<blank>:0", "<unk>:1", "<sos/eos>:-1"):
        options += ["--add_symbol", symbol]
    options += ["--input", str(text), "--output", str(tmp_path / "ref")]
    monkeypatch.setattr(sys, "argv", ["tokenize_text", *options])
    main()
    tokens = (tmp_path / "out" / "tokens.txt").read_text()
    assert tokens == (tmp_path / "ref").read_text()
    assert "<space>" in tokens.split()


@pytest.mark.parametrize(
    ("nbpe", "message"),
    [(500, r"use --nbpe \d+ or less"), (5, r"use --nbpe \d+ or more")],
)
def test_impossible_size_names_a_possible_one(cli, text, tmp_path, nbpe, message):
    with pytest.raises(InputError, match=message) as e:
        cli(TOKENS, "--text", text, "--nbpe", nbpe, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    possible = str(e.value).split("use --nbpe ")[1].split()[0]
    cli(TOKENS, "--text", text, "--nbpe", possible, "--out", tmp_path / "out")


def test_text_without_words(cli, tmp_path):
    (tmp_path / "text").write_text("u1\nu2\n")
    with pytest.raises(InputError, match="no transcript"):
        cli(TOKENS, "--text", tmp_path / "text", "--out", tmp_path / "out")


def test_error_is_one_line_and_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", TOKENS, "--text", tmp_path / "none", "--out", "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'none'}")
    assert "Traceback" not in done.stderr
