"""Do the model's tokens write the transcripts that it is to learn from?

A text in lower case under a model of capitals trains, decodes and is scored without a
word, and every letter of it is the unknown token.
"""

import argparse
import itertools
import logging
from pathlib import Path

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.families.espnet.tasks import Task
from espnet_prune.training.origin import pieces

FIRST = 1000  # transcripts that are looked at
MOST = 0.05  # share of unknown tokens beyond which it is another kind of text
UNKNOWN = "<unk>"


def refuse_unknown_tokens(options: argparse.Namespace, task: Task) -> None:
    """Refuse transcripts that a model's tokens cannot write; warn of single ones.

    Args:
        options: of a training; its data's text named ``text`` is looked at.
        task: of the model.

    Raises:
        InputError: more than a twentieth of the first transcripts' tokens are unknown.
    """
    tokens = task.training.build_preprocess_fn(options, train=False)
    listed = getattr(getattr(tokens, "token_id_converter", None), "token2id", {})
    if UNKNOWN not in listed:
        return
    for path, name, kind in options.train_data_path_and_name_and_type:
        if (name, kind) != ("text", "text"):
            continue
        total, unknown, example = 0, 0, ""
        for part in pieces(path)[:1]:
            for words in itertools.islice(read_table(part).values(), FIRST):
                ids = tokens("check", {"text": words})["text"]
                here = int((ids == listed[UNKNOWN]).sum())
                total, unknown = total + len(ids), unknown + here
                example = example or (words if here else "")
        if not unknown:
            continue
        what = f"{unknown} of {total} tokens of its first transcripts are none of the "
        what += f"model's, as in {example!r}"
        if unknown / total > MOST:
            mend = "write it as the model's own training text: capitals, signs, script"
            raise InputError(Path(path), what, mend)
        logging.warning(f"{path}: {what}")
