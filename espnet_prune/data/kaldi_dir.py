"""Kaldi-style data directories: reading with every check, and sorted writing.

``wav.scp`` maps a recording to its audio, ``text`` an utterance to its words,
``utt2spk`` an utterance to its speaker. With ``segments`` an utterance is a stretch
of a recording, without it the utterance is the recording of the same id.
``utt2speed`` is this project's own: the playback speed of an utterance where it is
not 1, written by stage 2 and applied by stage 3. ``text.prev`` and ``text.ctc`` are
those of ESPnet's ``s2t.sh`` (OWSM).
"""

import logging
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import atomic_dir
from espnet_prune.base.table import read_table, write_table
from espnet_prune.data.table_checks import (
    check_channels,
    check_names,
    check_same_ids,
    check_speakers,
    examples,
)
from espnet_prune.data.text import MORE_TEXTS, normalized


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in seconds; ``end`` None is the recording's end."""

    recording: str
    start: float
    end: float | None


@dataclass
class DataDir:
    """The tables of one data directory.

    Attributes:
        wav: recording id -> path, ``command |`` or ``file.ark:offset``.
        text: utterance id -> words ("" where there are none).
        speakers: utterance id -> speaker id.
        segments: utterance id -> Segment; None where utterances are recordings.
        speeds: utterance id -> playback speed, of those where it is not 1.
        more: name of a file of :data:`MORE_TEXTS` -> utterance id -> words.
    """

    wav: dict[str, str]
    text: dict[str, str]
    speakers: dict[str, str]
    segments: dict[str, Segment] | None = None
    speeds: dict[str, float] = field(default_factory=dict)
    more: dict[str, dict[str, str]] = field(default_factory=dict)

    def part(self, kept: Collection[str], wav: dict[str, str]) -> "DataDir":
        """Return some utterances, of audio that is where ``wav`` says."""
        texts = self.text, self.speakers, *self.more.values()
        text, speakers, *more = ({u: table[u] for u in kept} for table in texts)
        return DataDir(
            wav, text, speakers, more=dict(zip(self.more, more, strict=True))
        )

    def subset(self, kept: Collection[str]) -> "DataDir":
        """Return some utterances, of the audio that they have here."""
        recordings = {self.segments[u].recording if self.segments else u for u in kept}
        part = self.part(kept, {r: self.wav[r] for r in recordings})
        part.segments = self.segments and {u: self.segments[u] for u in kept}
        part.speeds = {u: s for u, s in self.speeds.items() if u in kept}
        return part


def read_data_dir(path: str | Path, transcribed: bool = True) -> DataDir:
    """Read and check a data directory.

    Relative audio paths that the current directory does not have are looked for in
    ``path`` and its parents and come back as found there.

    Args:
        path: the directory.
        transcribed: whether ``text`` must be there, with all utterances.

    Raises:
        InputError: a table is missing or malformed, the tables disagree about the
            ids, or an audio file does not exist.
    """
    path = Path(path)
    if not path.is_dir():
        where = "" if path.is_absolute() else f" (paths count from {Path.cwd()})"
        mend = f"give a Kaldi-style data directory{where}"
        raise InputError(path, "is no directory", mend)
    wav = find_audio(path, read_table(path / "wav.scp"))
    segments = None
    if (path / "segments").exists():
        segments = _read_segments(path / "segments")
        _check_recordings(path, segments, wav)
    utterances: Iterable[str] = wav if segments is None else segments
    source = path / ("wav.scp" if segments is None else "segments")
    text = {}
    if transcribed or (path / "text").exists():
        text = _read_text(path / "text")
    if not transcribed:
        text = dict.fromkeys(utterances, "") | text
    speakers = read_table(path / "utt2spk")
    check_same_ids(source, utterances, path / "text", text)
    check_same_ids(source, utterances, path / "utt2spk", speakers)
    for number, (utterance, speaker) in enumerate(speakers.items(), 1):
        if len(speaker.split()) != 1:
            raise InputError(
                f"{path / 'utt2spk'}:{number}",
                f"gives {utterance!r} not one speaker but {speaker!r}",
                "write lines of 'utterance speaker'",
            )
    check_speakers(path / "spk2utt", speakers)
    check_names(source, utterances)
    check_channels(path / "reco2file_and_channel", wav)
    speeds = {}
    if (path / "utt2speed").exists():
        speeds = _read_speeds(path / "utt2speed")
        unknown = sorted(speeds.keys() - text.keys())
        if unknown:
            raise InputError(
                path / "utt2speed",
                f"names utterances that text lacks, as {unknown[0]!r}",
                "run stage 2 again",
            )
    more = {}
    for name in MORE_TEXTS:
        if (path / name).exists():
            more[name] = _read_text(path / name)
            check_same_ids(source, utterances, path / name, more[name])
    empty = sum(not words for words in text.values())
    if empty and transcribed:
        logging.warning("%s: %d empty transcripts", path / "text", empty)
    return DataDir(wav, text, speakers, segments, speeds, more)


def _read_text(path: Path) -> dict[str, str]:
    """Read the transcripts in their one form; what was another is counted."""
    table = read_table(path)
    text = {utterance: normalized(words) for utterance, words in table.items()}
    if changed := [utt for utt, words in table.items() if words != text[utt]]:
        logging.warning(
            "%s: %d transcripts were brought to single blanks and composed letters "
            "(NFC), as that of %s", path, len(changed), changed[0],
        )  # fmt: skip
    return text


def find_audio(path: Path, wav: dict[str, str]) -> dict[str, str]:
    """Resolve every path of wav.scp to an existing file."""
    found, missing = {}, []
    for number, (recording, value) in enumerate(wav.items(), 1):
        if not value:
            raise InputError(
                f"{path / 'wav.scp'}:{number}",
                f"names no audio for {recording!r}",
                "write lines of 'id path' or 'id command |'",
            )
        resolved = _resolve(path, value)
        several = value.split()
        if (
            resolved is None
            and len(several) > 1
            and all(_resolve(path, part) for part in several)
        ):
            what = f"gives {recording!r} {len(several)} files, and only one is read"
            mend = "mix or pick channels by a pipe, as: sox -M FILE FILE -t wav - |"
            raise InputError(f"{path / 'wav.scp'}:{number}", what, mend)
        if resolved is None:
            missing.append(f"line {number} {value}")
        else:
            found[recording] = resolved
    if missing:
        raise InputError(
            path / "wav.scp",
            f"{len(missing)} of {len(wav)} audio files do not exist: "
            + examples(missing),
            f"paths count from the current directory, or from {path} and its parents",
        )
    return found


def _resolve(path: Path, value: str) -> str | None:
    if value.endswith("|"):
        return value
    file, colon, offset = value.rpartition(":")
    if not (colon and offset.isdigit()):
        file, colon, offset = value, "", ""
    if Path(file).is_file():
        return value
    if not Path(file).is_absolute():
        # Of a link, the parents of where it is and of where it leads.
        for folder in (path, *path.absolute().parents, *path.resolve().parents):
            if (folder / file).is_file():
                return f"{folder / file}{colon}{offset}"
    return None


def _read_segments(path: Path) -> dict[str, Segment]:
    segments = {}
    for number, (utterance, value) in enumerate(read_table(path).items(), 1):
        where, parts = f"{path}:{number}", value.split()
        try:
            recording, start, end = parts[0], float(parts[1]), float(parts[2])
            if len(parts) != 3 or math.inf in (start, end):
                raise ValueError
        except (IndexError, ValueError):
            raise InputError(
                where,
                f"is not 'utterance recording start end' but {utterance!r} {value!r}",
                "give start and end in seconds",
            ) from None
        # Kaldi's own convention: an end of -1 is the end of the recording.
        last = None if end == -1 else end
        if not start >= 0 or (last is not None and not last > start):
            raise InputError(
                where, f"goes from {start} s to {end} s", "end must be after start"
            )
        segments[utterance] = Segment(recording, start, last)
    return segments


def _read_speeds(path: Path) -> dict[str, float]:
    speeds = {}
    for number, (utterance, value) in enumerate(read_table(path).items(), 1):
        try:
            speeds[utterance] = float(value)
            if not 0.1 <= speeds[utterance] <= 10:
                raise ValueError
        except ValueError:
            raise InputError(
                f"{path}:{number}", f"{value!r} is no speed", "run stage 2 again"
            ) from None
    return speeds


def _check_recordings(
    path: Path, segments: dict[str, Segment], wav: dict[str, str]
) -> None:
    unknown = [
        f"line {number} {segment.recording}"
        for number, segment in enumerate(segments.values(), 1)
        if segment.recording not in wav
    ]
    if unknown:
        raise InputError(
            path / "segments",
            f"{len(unknown)} lines name recordings that wav.scp lacks: "
            + examples(unknown),
            "make the two files agree",
        )


def write_tables(folder: str | Path, data: DataDir) -> None:
    """Write the tables of ``data`` into an existing folder."""
    folder = Path(folder)
    spk2utt: dict[str, list[str]] = {}
    for utterance in sorted(data.speakers):
        spk2utt.setdefault(data.speakers[utterance], []).append(utterance)
    write_table(folder / "wav.scp", data.wav)
    for name, table in {"text": data.text, **data.more}.items():
        write_table(folder / name, table)
    write_table(folder / "utt2spk", data.speakers)
    write_table(folder / "spk2utt", {s: " ".join(u) for s, u in spk2utt.items()})
    if data.segments is not None:
        rows = {
            u: f"{s.recording} {s.start!r} {-1 if s.end is None else repr(s.end)}"
            for u, s in data.segments.items()
        }
        write_table(folder / "segments", rows)
    if data.speeds:
        write_table(folder / "utt2speed", data.speeds)


def audio_type(folder: str | Path) -> str:
    """Name a dump's kind of audio as ESPnet does: ``sound`` or ``kaldi_ark``."""
    stored = Path(folder) / "audio_format"
    ark = stored.exists() and stored.read_text().strip().endswith("ark")
    return "kaldi_ark" if ark else "sound"


def write_data_dir(path: str | Path, data: DataDir) -> None:
    """Write a data directory whole; what stood at ``path`` before is replaced."""
    with atomic_dir(path) as folder:
        write_tables(folder, data)
