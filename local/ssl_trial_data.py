#!/usr/bin/env python3
"""Make audio to prune with, and probes, from small public corpora, for results.

    python3 local/ssl_trial_data.py --corpora DIR --out data/trial

DIR holds the Kaldi directories ``speech_commands/{train,dev,test}`` and
``librispeech_261spk/train``, and ``free-spoken-digit-dataset/recordings``. Left
are ``audio`` (training speakers, no text) and the probes' directories; ``--probes`` is
printed.
"""

import argparse
import collections
import shutil
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.table import read_table, write_table
from espnet_prune.data.kaldi_dir import find_audio

# Speakers of the digits: the other two are never heard before the test.
HEARD = ("george", "jackson", "lucas", "yweweler")
FEWEST = (
    18  # utterances of a speaker that is told from others by the third that is left
)
SPELLED = 3  # of so many words a head learns to spell one


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def audio_of(folder: Path) -> dict[str, str]:
    """Find the audio of a Kaldi directory, by utterance."""
    found = find_audio(folder, read_table(folder / "wav.scp"))
    return {key: str(Path(value).resolve()) for key, value in found.items()}


def write(folder: Path, audio: dict[str, str], **labels: dict[str, str]) -> None:
    """Write a Kaldi directory of those utterances that have all labels."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    keys = set(audio).intersection(*labels.values())
    for name, table in {"wav.scp": audio, **labels}.items():
        write_table(folder / name, {key: table[key] for key in keys})


def main() -> None:
    args = get_parser().parse_args()
    commands, libri = (
        args.corpora / name for name in ("speech_commands", "librispeech_261spk")
    )
    digits = args.corpora / "free-spoken-digit-dataset/recordings"
    for folder in (commands, libri, digits):
        if not folder.is_dir():
            raise InputError(folder, "is no directory", "see --help")
    write(args.out / "audio", audio_of(commands / "train") | audio_of(libri / "train"))

    speakers = read_table(commands / "train/utt2spk")
    of_speaker = collections.defaultdict(list)
    for key in sorted(speakers):
        of_speaker[speakers[key]].append(key)
    known = [keys for keys in of_speaker.values() if len(keys) >= FEWEST]
    recordings = [
        path for path in sorted(digits.glob("*.wav")) if index_of(path) % 2 == 0
    ]
    for name, test in (("train", False), ("test", True)):
        chosen = (
            key for keys in known for i, key in enumerate(keys) if (i % 3 == 0) == test
        )
        labels = {key: speakers[key] for key in chosen}
        write(
            args.out / f"speaker_{name}", audio_of(commands / "train"), utt2spk=labels
        )
        own = [p for p in recordings if (p.stem.split("_")[1] not in HEARD) == test]
        audio = {path.stem: str(path.resolve()) for path in own}
        write(args.out / f"digit_{name}", audio, text={p.stem: p.stem[0] for p in own})
        text = sorted(read_table(commands / name / "text").items())
        text = dict(text if test else text[::SPELLED])
        write(args.out / f"spelling_{name}", audio_of(commands / name), text=text)
    own = {
        "digit": "words",
        "speaker": "speakers",
        "spelling": "characters",
    }
    for name, kind in own.items():
        folders = (f"{args.out}/{name}_{part}" for part in ("train", "test"))
        print(f"{name}={kind}:{':'.join(folders)}", end=" ")
    for name, kind, train in (
        ("keyword", "words", "train"),
        ("verify", "verify", "train"),
        ("query", "queries", "dev"),
    ):
        print(f"{name}={kind}:{commands}/{train}:{commands}/test", end=" ")
    print()


def index_of(path: Path) -> int:
    """Read the index of a recording of the digits, ``DIGIT_SPEAKER_INDEX.wav``."""
    return int(path.stem.split("_")[2])


if __name__ == "__main__":
    run_main(main)
