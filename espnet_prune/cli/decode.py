"""Stage 15: decode a data set with ESPnet's own search, or by CTC alone or first.

The stage writes ESPnet's files (``text``, ``token``, ``token_int``, ``score``) into
``<system>/decode_<tag>/<set>`` once every shard has finished.
"""

import argparse
import heapq
import json
import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import (
    code_version,
    fingerprint,
    is_made_of,
    note_made_of,
    read_yaml,
    resumable_dir,
)
from espnet_prune.base.table import read_table, write_table
from espnet_prune.config.run_options import PRECISIONS
from espnet_prune.data.audio import audio_digest, check_rate
from espnet_prune.data.kaldi_dir import audio_type
from espnet_prune.families.espnet.tasks import ASR, S2T, Task, task_of
from espnet_prune.running.executor import add_arguments, from_arguments, split
from espnet_prune.running.parallel import time_left
from espnet_prune.running.shards import mark_of, run_shards

# Half a window of ESPnet's widest usual STFT (1024), which reflects it at the edges.
MIN_SAMPLES = 513
TABLES = ("text", "token", "token_int", "score")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="of the model")
    parser.add_argument("--model", type=Path, required=True, help="its weights")
    parser.add_argument("--data", type=Path, required=True, help="dump/raw/<set>")
    parser.add_argument("--inference_config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    add_arguments(parser)
    parser.add_argument("--ngpu", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    executor = from_arguments(args)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.families.espnet.checkpoint import (
        read_state,
        resources,
        sampling_rate,
    )
    from espnet_prune.serving.decoders import check_symbols, read_search
    from espnet_prune.serving.load import load
    from espnet_prune.serving.streaming import PART, check_streaming
    from espnet_prune.training.origin import refuse_missing_gpus

    if executor.is_local:
        refuse_missing_gpus(args.ngpu)
    if not args.inference_config.exists():
        raise InputError(args.inference_config, "does not exist", "--inference_config")
    keys = list(read_table(args.data / "wav.scp", "run stages 1-4"))
    long_enough = without_too_short(keys, args.data / "utt2num_samples")
    for path in (args.config, args.model):
        if not path.exists():
            raise InputError(path, "does not exist", "run the stage that trains it")
    read_state(args.model)  # what it refuses, ESPnet would run
    model = argparse.Namespace(**read_yaml(args.config))
    check_rate(args.data / "wav.scp", sampling_rate(model), args.config)
    if executor.is_local and not args.ngpu and args.precision == "fp32":
        lengths = args.data / "utt2num_samples"
        refuse_longest(long_enough, lengths, model, args.nj)
    # The logs lie beside the output, so that they survive a failure.
    log_dir = args.out.parent / "log" / args.out.name
    task = task_of(vars(model))
    options = read_search(args.inference_config, task)
    check_lm(options, model, args.inference_config)
    check_symbols(options, model.token_list, args.inference_config)
    if PART in options:
        check_streaming(args.config, vars(model), options[PART])
    named = [args.config, args.model, args.inference_config, args.data / "wav.scp"]
    named += [args.data / "utt2num_samples", *resources(vars(model)).values()]
    values = [*options.values(), *(options.get("ctc_beam") or {}).values()]
    named += [value for value in values if isinstance(value, str)]
    made_of = [fingerprint(path) for path in named if Path(path).is_file()]
    made_of += [audio_digest(args.data / "wav.scp"), code_version()]
    stamp = json.dumps([args.precision, keys, long_enough, *made_of])
    if is_made_of(args.out, stamp):
        logging.info(f"{args.out}: decoded before, of the same files by the same code")
        return
    if args.precision == "int8":  # its file is written here, not by every part
        logging.info("writing the encoder in int8, unless it was written before")
        load(args.config, args.model, args.precision)
    # Whole results are the same for any number of parts; the parts are not.
    with resumable_dir(args.out, f"{args.nj} {stamp}") as folder:
        jobs = []
        for n, part in enumerate(split(long_enough, args.nj), start=1):
            job = folder / f"output.{n}"
            job.mkdir(exist_ok=True)
            key_file = folder / f"keys.{n}.scp"
            key_file.write_text("".join(f"{key}\n" for key in part))
            jobs.append((job, key_file, log_dir / f"{task.name}_inference.{n}.log"))
        audio = f"{args.data}/wav.scp,speech,{audio_type(args.data)}"
        commands = [
            [sys.executable, "-m", f"espnet_prune.cli.{task.name}_inference"]
            + ["--config", str(args.inference_config)]
            + ["--ngpu", str(args.ngpu)]
            + [f"--{task.config_option}", str(args.config)]
            + [f"--{task.weights_option}", str(args.model)]
            + ["--data_path_and_name_and_type", audio]
            + ["--key_file", str(key_file), "--output_dir", str(job)]
            + ["--num_workers", "0", "--precision", args.precision]
            for job, key_file, _ in jobs
        ]
        logs = [log for _, _, log in jobs]
        begun: list[float] = []  # when the models had been loaded
        logging.info(f"decoding {len(keys)} utterances of {args.data}; log: {logs[0]}")

        def progress() -> str:
            done = count_decoded(logs)
            if done and not begun:
                begun.append(time.monotonic())
                return f"decoded {done} of {len(keys)} utterances"
            left = time_left(begun[0], done, len(keys)) if begun else ""
            return f"decoded {done} of {len(keys)} utterances{left}"

        done = [mark_of(job) for job, _, _ in jobs]
        run_shards(commands, logs, progress, executor, done, gpus=args.ngpu > 0)
        merge([job for job, _, _ in jobs], folder, keys, task)
        (folder / "model.sha256").write_text(fingerprint(args.model) + "\n")
    note_made_of(args.out, stamp)
    logging.info(f"{args.out}/text: {len(keys)} utterances")


def count_decoded(logs: list[Path]) -> int:
    """Count what the parts have decoded; those that wait for a core have no log."""
    begun = [log.read_text(errors="replace") for log in logs if log.is_file()]
    return sum(text.count("best hypo") for text in begun)


def check_lm_files(options: dict[str, Any], source: Path) -> None:
    """Refuse a language model that is not there, or whose file would run code."""
    for name in ("lm_train_config", "lm_file"):
        if options.get(name) is not None and not Path(options[name]).is_file():
            raise InputError(
                source, f"{name} {options[name]} does not exist", "train it, or name it"
            )
    if options.get("lm_file") is not None:
        from espnet_prune.families.espnet.checkpoint import read_state  # imports torch

        read_state(options["lm_file"])


def check_lm(options: dict[str, Any], model: argparse.Namespace, source: Path) -> None:
    """Refuse a language model that is not there, or of other tokens than the model.

    ESPnet would search with it all the same, and the words would be wrong.
    """
    check_lm_files(options, source)
    if options.get("lm_train_config") is None:
        return
    tokens = read_yaml(options["lm_train_config"]).get("token_list")
    if tokens != model.token_list:
        raise InputError(
            options["lm_train_config"],
            "has other tokens than the model to decode",
            "give a language model of the same tokens",
        )


def without_too_short(keys: list[str], samples: Path) -> list[str]:
    """Leave out what a frontend cannot even make one window of: ESPnet would stop.

    Raises:
        InputError: nothing is left.
    """
    if not samples.exists():
        return keys
    lengths = read_table(samples)
    kept = [key for key in keys if int(lengths.get(key, MIN_SAMPLES)) >= MIN_SAMPLES]
    if not kept:
        raise InputError(samples, f"every utterance is below {MIN_SAMPLES} samples")
    if len(kept) < len(keys):
        logging.warning(f"{len(keys) - len(kept)} utterances are too short to decode")
    return kept


def refuse_longest(
    keys: list[str], samples: Path, model: argparse.Namespace, at_once: int
) -> None:
    """Refuse a set whose longest utterances need more memory than there is.

    Args:
        keys: utterances of the set.
        samples: table of their lengths.
        model: the ``config.yaml`` of what is to decode them.
        at_once: processes on this machine, which may meet the longest together.
    """
    from espnet_prune.families.espnet.checkpoint import sampling_rate  # imports torch
    from espnet_prune.measuring.memory import refuse_too_long

    if samples.exists():
        lengths = read_table(samples)
        rate = sampling_rate(model)
        longest = heapq.nlargest(at_once, keys, lambda key: int(lengths.get(key, 0)))
        seconds = {key: int(lengths.get(key, 0)) / rate for key in longest}
        refuse_too_long(samples, seconds, model)


def merge(jobs: list[Path], folder: Path, keys: list[str], task: Task = ASR) -> None:
    """Join the shards' 1-best tables.

    The ``text`` of S2T is that without its symbols of language, task and time, which
    are in ``token``.

    An utterance too short to decode has no line in the shard's ``text``: it gets an
    empty hypothesis, so that the scorer counts its words as deleted.
    """
    for table in TABLES:
        found: dict[str, str] = {}
        for job in jobs:
            plain = task is S2T and table == "text"
            path = job / "1best_recog" / ("text_nospecial" if plain else table)
            if path.exists():
                found |= read_table(path, forgive=True)
        missing = [key for key in keys if key not in found]
        if missing and table == "text":
            logging.warning(
                f"{len(missing)} utterances gave no hypothesis: {missing[0]}"
            )
        write_table(folder / table, {key: found.get(key, "") for key in keys})
    for job in jobs:
        shutil.rmtree(job)
        mark_of(job).unlink(missing_ok=True)


if __name__ == "__main__":
    run_main(main)
