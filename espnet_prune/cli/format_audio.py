"""Stage 3: turn a data directory's audio into mono FLAC at one sampling rate.

The stage reads ``wav.scp`` with ``segments`` and ``utt2speed`` (stage 2) and writes
what ESPnet's ``format_wav_scp.sh`` does: one file per utterance and ``wav.scp`` (paths
as ``--out`` is given, so relative to the current directory), ``text``, ``utt2spk``,
``spk2utt``, ``utt2num_samples``, ``feats_type``, ``audio_format``.
"""

import argparse
import functools
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import is_made_of, note_made_of, resumable_dir, write_json
from espnet_prune.base.table import write_table
from espnet_prune.data.audio import file_of, load_utterance, run_pipe
from espnet_prune.data.kaldi_dir import (
    DataDir,
    Segment,
    read_data_dir,
    write_tables,
)
from espnet_prune.running.executor import Executor, add_arguments, from_arguments

_FILES_PER_FOLDER = 1000
_LONGEST = 250  # bytes of an id: a file name has five more
PARTS = ".parts"
_PER_PART = 200  # utterances: what a kill, or a failed job, makes us do again


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
    error: str = ""


@dataclass(frozen=True)
class Part:
    """Some utterances, and the file for what comes of them."""

    jobs: list[Job]
    result: Path


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in", dest="source", required=True, help="data directory")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--fs", type=int, default=16000, help="sampling rate, Hz")
    add_arguments(parser, nj=1)
    parser.add_argument(
        "--skip_bad",
        action="store_true",
        help="drop and count what cannot be read, instead of stopping",
    )
    return parser


def format_utterance(job: Job, run: Callable[[str], bytes] = run_pipe) -> Formatted:
    """Write one utterance's FLAC file; an error comes back, it is not raised."""
    try:
        segment = job.segment
        audio = load_utterance(
            job.value, job.fs, segment.start, segment.end, job.speed, run
        )
        if len(audio.samples) == 0:
            raise InputError(job.value, f"leaves no sample for {job.utterance}")
    except InputError as e:
        return Formatted(job.utterance, error=str(e))
    # Resampling overshoots a little at full scale; 16 bits would wrap around there.
    samples = np.clip(audio.samples, -1.0, 1.0)
    soundfile.write(job.path, samples, job.fs, subtype="PCM_16", format="FLAC")
    return Formatted(
        job.utterance, len(samples), audio.source_fs, audio.channels, audio.scaled
    )


def format_part(part: Part) -> list[Formatted]:
    """Format a part, and remember what came of it unless something was wrong."""
    run = functools.lru_cache(maxsize=1)(run_pipe)  # a command has many segments
    results = [format_utterance(job, run) for job in part.jobs]
    if not any(result.error for result in results):
        write_json(part.result, [asdict(result) for result in results])
    return results


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if args.fs < 1000:
        raise InputError("--fs", f"{args.fs} Hz is no sampling rate", "give 16000")
    source, out = Path(args.source), Path(args.out)
    if source.resolve() == out.resolve():
        raise InputError("--out", "is the directory to read", "give another")
    data = read_data_dir(source)
    executor = from_arguments(args)
    stamp = stamp_of(data, args.fs)
    if is_made_of(out, stamp):
        logging.info(f"{out}: formatted before, from the same files")
        return
    with resumable_dir(out, stamp) as temporary:
        files = _name_files(data)
        results = format_in_parts(
            _make_jobs(data, files, temporary, args.fs),
            temporary,
            executor,
            f"formatting {source.name}",
        )
        bad = [result for result in results if result.error]
        good = [result for result in results if not result.error]
        _report_bad(source, bad, len(results), args.skip_bad)
        _report_good(source, good, args.fs)
        kept = [result.utterance for result in good]
        write_tables(
            temporary,
            DataDir(
                wav={u: str(out / files[u]) for u in kept},
                text={u: data.text[u] for u in kept},
                speakers={u: data.speakers[u] for u in kept},
            ),
        )
        write_table(
            temporary / "utt2num_samples", {r.utterance: r.samples for r in good}
        )
        (temporary / "feats_type").write_text("raw\n")
        (temporary / "audio_format").write_text("flac\n")
        shutil.rmtree(temporary / PARTS)
    if not bad:  # what was left out may be mended by then
        note_made_of(out, stamp)


def stamp_of(data: DataDir, fs: int) -> str:
    """Compute a SHA-256 of what the files are made of, audio by its size and date."""
    seen = []
    for value in data.wav.values():
        if (file := file_of(value)) is not None:
            now = Path(file).stat()
            seen.append((now.st_mtime_ns, now.st_size))
    return hashlib.sha256(f"{fs} {data} {seen}".encode()).hexdigest()


def format_in_parts(
    jobs: list[Job], folder: Path, executor: Executor, what: str
) -> list[Formatted]:
    """Write all files; parts that an earlier run has finished are not done again.

    Args:
        jobs: one per utterance.
        folder: under which they write; holds what the parts came to.
        executor: runs the parts.
        what: names the work in the progress lines.
    """
    (folder / PARTS).mkdir(exist_ok=True)
    size = max(1, min(_PER_PART, -(-len(jobs) // executor.nj)))
    parts = [
        Part(some, folder / PARTS / f"{number}-{size}.json")
        for number, some in enumerate(_split(jobs, size))
    ]
    todo = [part for part in parts if not part.result.exists()]
    if len(todo) < len(parts):
        logging.info(
            "%s: %d of %d parts were done", what, len(parts) - len(todo), len(parts)
        )
    logs = folder.parent / "log" / folder.name.strip(".")
    done = executor.map(format_part, todo, logs, f"{what} in parts")
    new = dict(zip((part.result for part in todo), done, strict=True))
    results = []
    for part in parts:
        if part.result in new:
            results += new[part.result]
        else:
            kept = json.loads(part.result.read_text())
            results += [Formatted(**values) for values in kept]
    return results


def _split(jobs: list[Job], size: int) -> list[list[Job]]:
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


def _name_files(data: DataDir) -> dict[str, str]:
    """Name each utterance's file below the output directory."""
    names = {}
    for number, utterance in enumerate(sorted(data.text)):
        what = "has a slash in its id" if "/" in utterance else ""
        if len(utterance.encode()) > _LONGEST:
            what = f"has an id of more than {_LONGEST} bytes"
        if what:
            raise InputError(
                f"utterance {utterance!r}",
                f"{what}, which cannot be a file name",
                "rename it in every table",
            )
        folder = f"data/{number // _FILES_PER_FOLDER:03d}"
        names[utterance] = f"{folder}/{utterance}.flac"
    return names


def _make_jobs(
    data: DataDir, files: dict[str, str], folder: Path, fs: int
) -> list[Job]:
    for parent in {Path(name).parent for name in files.values()}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    jobs = []
    for utterance in sorted(data.text):
        segment = (data.segments or {}).get(utterance, Segment(utterance, 0.0, None))
        jobs.append(
            Job(
                utterance,
                data.wav[segment.recording],
                segment,
                data.speeds.get(utterance, 1.0),
                fs,
                str(folder / files[utterance]),
            )
        )
    return jobs


def _report_bad(source: Path, bad: list[Formatted], total: int, skip_bad: bool) -> None:
    if not bad:
        return
    examples = "; ".join(result.error for result in bad[:3])
    if len(bad) == total or not skip_bad:
        raise InputError(
            source,
            f"{len(bad)} of {total} utterances cannot be read: {examples}",
            'mend them, or drop them with --format_args "--skip_bad"',
        )
    logging.warning("%s: dropped %d unreadable: %s", source, len(bad), examples)


def _report_good(source: Path, good: list[Formatted], fs: int) -> None:
    rates = Counter(result.source_fs for result in good if result.source_fs != fs)
    mixed = sum(result.channels > 1 for result in good)
    scaled = [result.utterance for result in good if result.scaled]
    hours = sum(result.samples for result in good) / fs / 3600
    logging.info("%s: %d utterances, %.2f h", source, len(good), hours)
    for rate, count in sorted(rates.items()):
        logging.info("%s: resampled %d from %d to %d Hz", source, count, rate, fs)
    if mixed:
        logging.info("%s: averaged %d to one channel", source, mixed)
    if scaled:
        what = f"beyond full scale, and scaled down: {', '.join(scaled[:3])}"
        logging.warning("%s: %d utterances were %s", source, len(scaled), what)


if __name__ == "__main__":
    run_main(main)
