"""Stage 3: turn a data directory's audio into mono FLAC at one sampling rate.

The stage reads ``wav.scp`` with ``segments`` and ``utt2speed`` (stage 2) and writes
what ESPnet's ``format_wav_scp.sh`` does: one file per utterance and ``wav.scp`` (paths
as ``--out`` is given, so relative to the current directory), ``text``, ``utt2spk``,
``spk2utt``, ``utt2num_samples``, ``feats_type``, ``audio_format``.
"""

import argparse
import hashlib
import json
import logging
import shutil
from collections import Counter
from pathlib import Path

from espnet_prune import __version__
from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import note_made_of, resumable_dir
from espnet_prune.base.table import write_table
from espnet_prune.data.audio import AUDIO_DIGEST
from espnet_prune.data.formatting import Formatted, Job, Part, format_part, split
from espnet_prune.data.kaldi_dir import (
    DataDir,
    Segment,
    read_data_dir,
    write_tables,
)
from espnet_prune.data.sources import look_at
from espnet_prune.data.text import MARKS, settle_marks
from espnet_prune.running.executor import Executor, add_arguments, from_arguments

_FILES_PER_FOLDER = 1000
PARTS = ".parts"
_PER_PART = 200  # utterances: what a kill, or a failed job, makes us do again


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
    parser.add_argument(
        "--marks",
        choices=MARKS,
        default="keep",
        help="what to do about <noise>, [laughter], (uh) in transcripts",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if args.fs < 1000:
        raise InputError("--fs", f"{args.fs} Hz is no sampling rate", "give 16000")
    source, out = Path(args.source), Path(args.out)
    if source.resolve() == out.resolve():
        raise InputError("--out", "is the directory to read", "give another")
    data = read_data_dir(source)
    if not data.more:  # where <na> or <asr> is a symbol
        data.text = settle_marks(source / "text", data.text, args.marks)
    elif args.marks != "keep":
        what = f"is {args.marks}, but {min(data.more)} says that these are OWSM's data"
        raise InputError("--marks", what, "keep them: their symbols look like marks")
    executor = from_arguments(args)
    sources = look_at(data.wav.values(), out)
    stamp = f"{__version__} {args.fs} {data} {sources.digests}"
    if sources.are_those_of(out, stamp):
        return
    with resumable_dir(out, stamp) as temporary:
        sources.note(temporary)
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
        wav = {u: str(out / files[u]) for u in kept}
        write_tables(temporary, data.part(kept, wav))
        write_table(
            temporary / "utt2num_samples", {r.utterance: r.samples for r in good}
        )
        held = sorted((result.utterance, result.digest) for result in good)
        digest = hashlib.sha256(json.dumps(held).encode()).hexdigest()
        (temporary / AUDIO_DIGEST).write_text(digest)
        (temporary / "feats_type").write_text("raw\n")
        (temporary / "audio_format").write_text("flac\n")
        shutil.rmtree(temporary / PARTS)
    if not bad:  # what was left out may be mended by then
        note_made_of(out, stamp)


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
        Part(some, folder / PARTS / f"part{number}-{size}.json")
        for number, some in enumerate(split(jobs, size))
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


def _name_files(data: DataDir) -> dict[str, str]:
    """Name each utterance's file below the output directory."""
    names = {}
    for number, utterance in enumerate(sorted(data.text)):
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
    hours = sum(result.samples for result in good) / fs / 3600
    logging.info("%s: %d utterances, %.2f h", source, len(good), hours)
    for rate, count in sorted(rates.items()):
        logging.info("%s: resampled %d from %d to %d Hz", source, count, rate, fs)
    if mixed:
        logging.info("%s: averaged %d to one channel", source, mixed)
    for loud, what in (
        ([result for result in good if result.scaled], "beyond, and scaled down"),
        ([result for result in good if result.clipped], "cut off at it, as they stay"),
    ):
        if loud:
            examples = ", ".join(result.utterance for result in loud[:3])
            message = "%s: full scale: %d utterances were %s: %s"
            logging.warning(message, source, len(loud), what, examples)


if __name__ == "__main__":
    run_main(main)
