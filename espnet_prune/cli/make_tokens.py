"""Stage 5: make the token list (and the BPE model) of a training text for ESPnet.

The stage writes ``tokens.txt`` (``<blank>``, ``<unk>``, the tokens, ``<sos/eos>``) and,
for BPE, ``bpe.model``, ``bpe.vocab`` and ``train.txt``.
"""

import argparse
import io
import logging
import re
from collections import Counter
from pathlib import Path

import sentencepiece

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_dir
from espnet_prune.base.table import read_table

BLANK, UNKNOWN, SOS_EOS, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
# sentencepiece's own <unk>, <s> and </s> head its vocabulary.
_SPECIAL_PIECES = 3


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", required=True, help="Kaldi text of the training set")
    parser.add_argument("--type", choices=["bpe", "char"], default="bpe")
    parser.add_argument("--nbpe", type=int, default=500, help="BPE vocabulary size")
    parser.add_argument("--out", required=True, help="directory to write")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    lines = [words for words in read_table(args.text).values() if words]
    if not lines:
        raise InputError(args.text, "has no transcript that is not empty")
    out = Path(args.out)
    with atomic_dir(out) as temporary:
        if args.type == "bpe":
            tokens = _write_bpe(temporary, lines, args.nbpe, args.text)
        else:
            tokens = count_characters(lines)
        tokens = [BLANK, UNKNOWN, *tokens, SOS_EOS]
        _write_lines(temporary / "tokens.txt", tokens)
    logging.info("%s: %d tokens from %d lines", out, len(tokens), len(lines))


def count_characters(lines: list[str]) -> list[str]:
    """List characters by falling frequency, ties by first appearance, like ESPnet.

    Blanks of other kinds are characters to its tokenizer: stage 3 leaves none.
    """
    counts = Counter(
        SPACE if character == " " else character for line in lines for character in line
    )
    return [character for character, _ in counts.most_common()]


def _write_bpe(folder: Path, lines: list[str], nbpe: int, text: str) -> list[str]:
    """Train and write the unigram model; return its pieces without the specials."""
    model = io.BytesIO()
    try:
        # Through an iterator and a writer: the trainer would store the names of
        # files in the model, and its bytes would depend on where it was made.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=nbpe,
            model_type="unigram",
            character_coverage=1.0,
            input_sentence_size=100_000_000,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as e:
        raise _explain(str(e), nbpe, text) from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    (folder / "bpe.model").write_bytes(model.getvalue())
    _write_lines(
        folder / "bpe.vocab",
        [f"{p}\t{processor.get_score(i):g}" for i, p in enumerate(pieces)],
    )
    _write_lines(folder / "train.txt", lines)
    return pieces[_SPECIAL_PIECES:]


def _explain(message: str, nbpe: int, text: str) -> InputError:
    """Turn sentencepiece's complaint into ours, with the size that it would take."""
    largest = re.search(r"too high .*<= (\d+)", message, re.DOTALL)
    smallest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if largest:
        return InputError(
            "--nbpe",
            f"{nbpe} is too large for {text}",
            f"use --nbpe {largest[1]} or less, or more text",
        )
    if smallest:
        return InputError(
            "--nbpe",
            f"{nbpe} is too small for the characters of {text}",
            f"use --nbpe {smallest[1]} or more",
        )
    return InputError(text, f"sentencepiece cannot train on it ({message.strip()})")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
