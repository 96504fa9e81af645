"""Write utterances as mono FLAC files, part by part of a set."""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import write_json
from espnet_prune.data.audio import Opener, file_of, load_utterance, open_source
from espnet_prune.data.kaldi_dir import Segment
from espnet_prune.data.sound_file import seekable
from espnet_prune.data.sound_length import Source


@dataclass(frozen=True)
class Job:
    """One utterance to format: from ``value``'s stretch to the file ``path``."""

    utterance: str
    value: str
    segment: Segment
    speed: float
    fs: int
    path: str


@dataclass(frozen=True)
class Formatted:
    """The outcome of a job; ``error`` says why there is no file."""

    utterance: str
    samples: int = 0
    source_fs: int = 0
    channels: int = 0
    scaled: bool = False
    clipped: bool = False
    digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class Part:
    """Some utterances, and the file for what comes of them."""

    jobs: list[Job]
    result: Path


def format_utterance(job: Job, opener: Opener = open_source) -> Formatted:
    """Write one utterance's FLAC file; what is wrong with its audio comes back.

    Raises:
        InputError: the file cannot be written.
    """
    segment, digest, count = job.segment, hashlib.sha256(), 0
    try:
        audio = load_utterance(
            job.value, job.fs, segment.start, segment.end, job.speed, opener
        )
        with soundfile.SoundFile(
            job.path, "w", job.fs, 1, "PCM_16", format="FLAC"
        ) as file:
            for samples in audio.blocks():
                # Resampling overshoots a little at full scale; 16 bits would wrap.
                samples = np.clip(samples, -1.0, 1.0)
                file.write(samples)
                digest.update(samples)
                count += len(samples)
        if count == 0:
            raise InputError(job.value, f"leaves no sample for {job.utterance}")
    except InputError as e:
        Path(job.path).unlink(missing_ok=True)
        return Formatted(job.utterance, error=str(e))
    except (soundfile.LibsndfileError, OSError) as e:
        what = f"cannot be written ({str(e).rstrip('.')})"
        raise InputError(
            job.path, what, "is the disk full? Make room, run again"
        ) from e
    return Formatted(
        job.utterance,
        count,
        audio.source_fs,
        audio.channels,
        audio.scaled,
        audio.clipped,
        digest.hexdigest(),
    )


def once(opener: Opener) -> Opener:
    """Remember what was opened last, or why that failed: it has many segments."""
    last: dict[str, Source | InputError] = {}

    def again(value: str) -> Source:
        if value not in last:
            last.clear()
            try:
                last[value] = opener(value)
            except InputError as e:
                last[value] = e
        if isinstance(opened := last[value], InputError):
            raise opened
        return opened

    return again


def format_part(part: Part) -> list[Formatted]:
    """Format a part, and remember what came of it unless something was wrong."""
    segments = Counter(job.value for job in part.jobs)

    def open_for_all(value: str) -> Source:
        opened = open_source(value)
        return seekable(opened) if segments[value] > 1 else opened

    opener = once(open_for_all)
    results = [format_utterance(job, opener) for job in part.jobs]
    if not any(result.error for result in results):
        write_json(part.result, [asdict(result) for result in results])
    return results


def split(jobs: list[Job], size: int) -> list[list[Job]]:
    """Split jobs into about so many each, recording by recording.

    Those of one command stay together.
    """

    def together(job: Job) -> str:
        return job.value if file_of(job.value) is None else job.path

    found: list[list[Job]] = [[]]
    by_recording = sorted(jobs, key=lambda job: job.value)
    for _, several in groupby(by_recording, together):
        some = [*several]
        if found[-1] and len(found[-1]) + len(some) > size:
            found.append([])
        found[-1] += some
    return found
