"""Stage 1 for self-supervised encoders: cut any audio into crops of 16 kHz, mono.

    python -m espnet_prune.cli.ssl_audio --audio recordings/ --out dump/ssl --nj 2

reads a folder of audio files, or a Kaldi ``wav.scp`` or the directory that holds one,
and leaves ``train`` and ``valid`` with ``wav.scp`` and ``utt2num_samples``. What cannot
be read, or says nothing, is left out and counted. With ``--text``, transcripts of the
recordings, these stay whole, and those without one, or too long, are left out.
"""

import argparse
import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import soundfile

from espnet_prune import __version__
from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import note_made_of, resumable_dir
from espnet_prune.base.table import read_table, write_table
from espnet_prune.data.audio import AUDIO_DIGEST, array_split, load_utterance
from espnet_prune.data.kaldi_dir import find_audio
from espnet_prune.data.sources import look_at
from espnet_prune.data.text import normalized
from espnet_prune.families.ssl.audio import RATE
from espnet_prune.running.executor import add_arguments, from_arguments

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")
SHORTEST = 0.5  # seconds; a crop of less says nothing of an utterance
SILENCE = 1e-4  # root mean square of a crop that is none, about -80 dB
FEW_HOURS = 0.25  # of training audio: less is worth a warning
HELD_OUT = 20  # of so many files one is for validation


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, required=True, help="folder, or wav.scp")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a crop, at most")
    parser.add_argument("--text", type=Path, help="Kaldi text: transcripts")
    add_arguments(parser)
    return parser


def sources(audio: Path) -> dict[str, str]:
    """Find the recordings by name.

    Raises:
        InputError: there are none.
    """
    if audio.is_dir() and not (audio / "wav.scp").is_file():
        found = {}
        for path in sorted(p for p in audio.rglob("*") if p.suffix.lower() in SUFFIXES):
            name = str(path.relative_to(audio).with_suffix(""))
            if name in found:
                mend = "rename one: both would be called so"
                raise InputError(path, f"stands beside {found[name]}", mend)
            found[name] = str(path)
    elif audio.suffix.lower() in SUFFIXES:
        raise InputError(audio, "is one recording", "give its folder, or a wav.scp")
    else:
        scp = audio / "wav.scp" if audio.is_dir() else audio
        found = read_table(scp, "give a folder of audio, or a Kaldi wav.scp")
        found = find_audio(scp.parent, found)
    names = [crop_name(name) for name in found]
    if len(set(names)) < len(names):
        (name, *_) = (name for name in names if names.count(name) > 1)
        raise InputError(audio, f"two recordings would be called {name}", "rename one")
    if not found:
        raise InputError(audio, "holds no recordings", "give some, as wav or flac")
    return found


def crop_name(name: str) -> str:
    """Turn the name of a recording, perhaps a path, into one for files of crops."""
    return name.replace("/", "-")


def crop(job: tuple[str, str, Path, float, bool]) -> tuple[dict[str, int], str, str]:
    """Write the crops of a recording, or the whole of it.

    Returns:
        samples by the name of the crop, what was wrong, and a SHA-256 of all crops.
    """
    name, source, folder, seconds, whole = job
    try:
        audio = load_utterance(source, RATE)
        total = sum(map(len, audio.blocks()))
    except InputError as e:
        return {}, str(e), ""
    if whole and total > seconds * RATE:
        return {}, f"{source}: is longer than {seconds:g} s", ""
    parts = 1 if whole else max(1, round(total / RATE / seconds))
    found, digest = {}, hashlib.sha256()
    for number, part in enumerate(array_split(audio.blocks(), total, parts)):
        if len(part) < SHORTEST * RATE or np.sqrt(np.mean(part**2)) < SILENCE:
            continue
        key = f"{crop_name(name)}-{number:04d}"
        file = folder / f"{key}.flac"
        part = np.clip(part, -1.0, 1.0)  # resampling overshoots a little at full scale
        soundfile.write(file, part, RATE, subtype="PCM_16", format="FLAC")
        found[key] = len(part)
        digest.update(part)
    error = "" if found else f"{source}: is silent, or shorter than {SHORTEST} s"
    return found, error, digest.hexdigest()


def held_out(
    audio: Path, made: dict[str, dict[str, int]], wrong: list[str]
) -> dict[str, dict[str, int]]:
    """Hold one recording in twenty out of the training; of one recording, crops.

    Args:
        audio: for messages.
        made: recording -> samples by the name of its crops.
        wrong: why others gave none.

    Returns:
        ``train`` and ``valid``: samples by the name of a crop, in order.

    Raises:
        InputError: there is not enough for both.
    """
    groups = [*made.values()]
    if len(groups) == 1:
        groups = [{key: n} for key, n in groups[0].items()]
    if len(groups) < 2:
        what = f"gives {len(groups)} crops" + (f" ({wrong[0]})" if wrong else "")
        raise InputError(audio, what, "give more audio")
    train = [group for i, group in enumerate(groups) if i % HELD_OUT]
    parts = {"train": train, "valid": groups[::HELD_OUT]}
    return {
        which: dict(sorted((k, n) for group in own for k, n in group.items()))
        for which, own in parts.items()
    }


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if args.seconds < SHORTEST:
        raise InputError(f"--seconds {args.seconds}", f"give {SHORTEST} at least")
    recordings = sources(args.audio)
    texts = None
    if args.text is not None:
        table = read_table(args.text, "give transcripts of the recordings")
        texts = {name: normalized(words) for name, words in table.items()}
        spoken = {key: v for key, v in recordings.items() if texts.get(key)}
        if len(spoken) < 2:
            ids = f"{next(iter(recordings))!r} here, {next(iter(texts))!r} there"
            what = f"has transcripts of {len(spoken)} of the recordings ({ids})"
            mend = "call them as the recordings: a file's path in the folder, no suffix"
            raise InputError(args.text, what, mend)
        recordings = spoken
    executor = from_arguments(args)
    seen = look_at(recordings.values(), args.out)
    stamp = f"{__version__} {args.seconds} {recordings} {seen.digests} {texts}"
    if seen.are_those_of(args.out, stamp):
        return
    with resumable_dir(args.out, stamp) as work:
        seen.note(work)
        folder = work / "audio"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        jobs = [
            (name, source, folder, args.seconds, texts is not None)
            for name, source in recordings.items()
        ]
        done = executor.map(crop, jobs, args.out.parent / "log", "crops")
        made: dict[str, dict[str, int]] = {}
        wrong = []
        held = hashlib.sha256()  # trainings go by it, not by how often a command ran
        for name, (found, error, digest) in zip(recordings, done, strict=True):
            held.update(f"{name} {found} {digest}\n".encode())
            made |= {name: found} if found else {}
            wrong += [error.split(" -> ")[0]] if error else []
        (work / AUDIO_DIGEST).write_text(held.hexdigest())
        if wrong:
            logging.warning(f"left out {len(wrong)} recordings: {wrong[0]}")
        for which, own in held_out(args.audio, made, wrong).items():
            (work / which).mkdir(exist_ok=True)
            scp = {key: str(args.out / "audio" / f"{key}.flac") for key in own}
            write_table(work / which / "wav.scp", scp)
            write_table(work / which / "utt2num_samples", own)
            if texts:
                of = {key: name for name, crops in made.items() for key in crops}
                write_table(work / which / "text", {key: texts[of[key]] for key in own})
            hours = sum(own.values()) / RATE / 3600
            logging.info(f"{which}: {len(own)} crops, {hours:.2f} h")
            if which == "train" and hours < FEW_HOURS:
                logging.warning(
                    f"{60 * hours:.1f} minutes of audio are too little to learn what "
                    "can go: hours are usual"
                )
    note_made_of(args.out, stamp)


if __name__ == "__main__":
    run_main(main)
