"""Checks of the tables of a Kaldi directory against each other."""

from collections.abc import Iterable
from pathlib import Path

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table

LONGEST_ID = 250  # bytes: a file name has five more


def check_same_ids(
    a_path: Path, a: Iterable[str], b_path: Path, b: Iterable[str]
) -> None:
    """Refuse tables that name other ids than each other."""
    only_a, only_b = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    if only_a or only_b:
        raise InputError(
            b_path,
            " and ".join(
                f"{len(only)} ids are only in {file.name} ({examples(only)})"
                for only, file in ((only_a, a_path), (only_b, b_path))
                if only
            ),
            "make the two files name the same ids",
        )


def check_speakers(path: Path, speakers: dict[str, str]) -> None:
    """Refuse a ``spk2utt`` that says otherwise than ``utt2spk``."""
    if not path.exists():
        return
    stated = {
        utterance: speaker
        for speaker, utterances in read_table(path).items()
        for utterance in utterances.split()
    }
    if stated != speakers:
        raise InputError(
            path, "disagrees with utt2spk", "delete it: it is derived from utt2spk"
        )


def check_names(source: Path, utterances: Iterable[str]) -> None:
    """Refuse ids that cannot be names of files, as stage 3 makes them."""
    bad = [u for u in utterances if "/" in u or len(u.encode()) > LONGEST_ID]
    if bad:
        what = f"{len(bad)} ids cannot be file names, for a slash or their length: "
        raise InputError(source, what + examples(bad), "rename them, in all tables")


def check_channels(path: Path, wav: dict[str, str]) -> None:
    """Refuse recordings that are channels of one file which nothing picks."""
    if not path.exists():
        return
    first: dict[str, str] = {}
    for recording in read_table(path):
        value = wav.get(recording, f"{recording} |")
        other = first.setdefault(value, recording)
        if other != recording and not value.endswith("|"):
            what = f"{other} and {recording} are channels of {value}, and both would "
            mend = "pick one by a pipe in wav.scp, as: sox FILE -t wav - remix 1 |"
            raise InputError(path, f"{what}be the mean of them", mend)


def examples(names: list[str]) -> str:
    """Name the first three of many."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
