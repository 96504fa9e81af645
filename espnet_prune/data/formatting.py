"""Write utterances as mono FLAC files, part by part of a set."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import write_json
from espnet_prune.data.audio import Run, file_of, load_utterance, run_pipe
from espnet_prune.data.kaldi_dir import Segment


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
    digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class Part:
    """Some utterances, and the file for what comes of them."""

    jobs: list[Job]
    result: Path


def format_utterance(job: Job, run: Run = run_pipe) -> Formatted:
    """Write one utterance's FLAC file; what is wrong with its audio comes back.

    Raises:
        InputError: the file cannot be written.
    """
    segment, digest, count = job.segment, hashlib.sha256(), 0
    try:
        audio = load_utterance(
            job.value, job.fs, segment.start, segment.end, job.speed, run
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
        digest.hexdigest(),
    )


def once(run: Run) -> Run:
    """Remember what the last command gave, or why it failed: it has many segments."""
    last: dict[str, IO[bytes] | InputError] = {}

    def again(command: str) -> IO[bytes]:
        if command not in last:
            last.clear()
            try:
                last[command] = run(command)
            except InputError as e:
                last[command] = e
        if isinstance(given := last[command], InputError):
            raise given
        return given

    return again


def format_part(part: Part) -> list[Formatted]:
    """Format a part, and remember what came of it unless something was wrong."""
    run = once(run_pipe)
    results = [format_utterance(job, run) for job in part.jobs]
    if not any(result.error for result in results):
        write_json(part.result, [asdict(result) for result in results])
    return results


def split(jobs: list[Job], size: int) -> list[list[Job]]:
    """Split jobs into about so many each; those of one command stay together."""
    together: dict[str, list[Job]] = {}
    for job in jobs:
        command = file_of(job.value) is None
        together.setdefault(job.value if command else job.path, []).append(job)
    found: list[list[Job]] = [[]]
    for several in together.values():
        if found[-1] and len(found[-1]) + len(several) > size:
            found.append([])
        found[-1] += several
    return found
