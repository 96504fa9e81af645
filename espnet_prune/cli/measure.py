"""Stage 17: measure parameters, MACs, file size and real-time factors of some systems.

    python -m espnet_prune.cli.measure \
        --system dense=their/config.yaml:their/valid.acc.ave.pth:exp/dense \
        --system compact=exp/compact/config.yaml:exp/compact/finetuned.pth:exp/compact \
        --data dump/raw/test --inference_config conf/decode.yaml

leaves ``measure.json`` in the last directory of each. All systems are timed in one
process, interleaved; the columns are those of ``espnet_prune.measuring.rtf``. In
fp32, too, onnxruntime runs the encoder of all, so that what is won between systems is
won by pruning; each is timed with ESPnet's own by torch, too. What onnxruntime does not
run is timed by torch alone.
"""

import argparse
import datetime
import inspect
import json
import logging
import random
import statistics
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import fingerprint, read_yaml, write_json
from espnet_prune.base.table import read_table
from espnet_prune.config.sections import SparsityOptions
from espnet_prune.data.audio import load_source
from espnet_prune.families.espnet.tasks import Task, decoded_with, task_of
from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.running.parallel import time_left

if TYPE_CHECKING:
    from torch import Tensor

    from espnet_prune.measuring.system import System

logger = logging.getLogger("espnet_prune.measuring")


# Shorter ones are below what a convolutional encoder takes, and tell nothing of speed.
MIN_SECONDS = 0.3


def read_inference_config(path: Path | None, task: Task) -> dict[str, Any]:
    """Read the options of a decoder; drop those of ESPnet's command line alone."""
    if path is None:
        return {}
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    from espnet_prune.serving.decoders import OWN, read_search
    from espnet_prune.serving.streaming import PART

    options, known = read_search(path, task), {PART, *OWN}
    for decoder in (task.inference.Speech2Text, Speech2TextStreaming):
        known |= inspect.signature(decoder).parameters.keys()
    return {name: value for name, value in options.items() if name in known}


def read_audio(
    scp: Path,
    n_utts: int,
    rates: set[int],
    models: Iterable[argparse.Namespace] = (),
) -> "list[Tensor]":
    """Read a fixed random choice of utterances: audio (sample,) each, in [-1, 1].

    Raises:
        InputError: a file is unreadable, not mono, has another rate than the models, or
            is too long for one of them.
    """
    import torch

    from espnet_prune.measuring.memory import refuse_too_long

    entries = list(read_table(scp, "run stages 1-4").items())
    chosen = random.Random(0).sample(entries, min(n_utts, len(entries)))
    audio: list[Tensor] = []
    for key, path in chosen:
        samples, rate = load_source(path)
        if samples.shape[1] != 1:
            raise InputError(path, f"has {samples.shape[1]} channels, not one")
        if rates != {rate}:
            wanted = ", ".join(map(str, sorted(rates)))
            raise InputError(path, f"has {rate} Hz, the models want {wanted} Hz")
        for model in models:
            refuse_too_long(scp, {key: len(samples) / rate}, model)
        if len(samples) >= MIN_SECONDS * rate:
            audio.append(torch.from_numpy(samples[:, 0]))
    if not audio:
        raise InputError(scp, f"holds no utterance of at least {MIN_SECONDS} s")
    return audio


def delay_of(decoder: object) -> float | None:
    """Give the median seconds from the last part of an utterance to its text.

    Args:
        decoder: one that has been timed; None is returned for one that hears no parts.
    """
    delays = getattr(decoder, "delays", None)
    return statistics.median(delays) if delays else None


def length_of_targets(systems: "list[System]") -> float:
    """Find the seconds of the utterance in which the systems' targets were counted.

    Raises:
        InputError: they were counted in several.
    """
    files = (system.config.parent / "pruning.json" for system in systems)
    found = {
        json.loads(file.read_text(encoding="utf-8"))["macs_seconds"]: file
        for file in files
        if file.is_file()
    }
    if len(found) > 1:
        lengths = ", ".join(f"{s:g} s ({file})" for s, file in found.items())
        raise InputError(
            "--macs_seconds", f"targets were counted at {lengths}", "choose a length"
        )
    return next(iter(found), SparsityOptions.macs_seconds)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--system", action="append", required=True, metavar="NAME=CONFIG:MODEL:OUT"
    )
    parser.add_argument("--data", type=Path, required=True, help="has a wav.scp")
    parser.add_argument("--utts", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--macs_seconds", type=float, help="default: as their targets were counted at"
    )
    parser.add_argument("--inference_config", type=Path, help="YAML as for decoding")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--precisions", default="", help="further formats of the encoder: bf16 int8"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.families.espnet.checkpoint import load_model, sampling_rate
    from espnet_prune.measuring.cost import count_macs, count_params
    from espnet_prune.measuring.machine import describe, pin_threads
    from espnet_prune.measuring.rtf import columns, summarise, time_rounds
    from espnet_prune.measuring.system import RESULT, System, quiet_date
    from espnet_prune.serving.load import set_precision

    # Speech2Text logs every utterance on the root logger; only our lines are wanted.
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("espnet_prune").setLevel(logging.INFO)
    systems = [System.parse(text) for text in args.system]
    if args.macs_seconds is None:
        args.macs_seconds = length_of_targets(systems)
    pin_threads(args.threads)
    keep_freed_memory()
    task = task_of(read_yaml(systems[0].config))
    inference = read_inference_config(args.inference_config, task)
    search = not inference.get("ctc_greedy")
    loaded = {system.name: system.load(inference) for system in systems}
    train_args = {name: decoded_with(s)[1] for name, s in loaded.items()}
    timed = {name: columns(s, search) for name, s in loaded.items()}
    asked = args.precisions.split()
    if "bf16" in asked:
        logger.warning("bf16 is for GPUs, and times are taken on the CPU: left out")
    precisions = [precision for precision in asked if precision != "bf16"]
    for system in systems:
        for precision in precisions:
            more = system.load(inference, own=True)
            set_precision(more, precision, system.config)
            timed[f"{system.name} {precision}"] = columns(more, search)
        own = system.load(inference, own=True)
        both = (decoded_with(s)[0].encoder for s in (own, loaded[system.name]))
        if len({*map(type, both)}) > 1:
            timed[system.by_espnet] = columns(own, search)
    rates = {sampling_rate(a) for a in train_args.values()}
    audio = read_audio(args.data / "wav.scp", args.utts, rates, train_args.values())
    audio_seconds = sum(map(len, audio)) / rates.pop()

    machine = describe()
    if machine["warning"]:
        of = {
            "data": str(args.data),
            "utterances": len(audio),
            "rounds": args.rounds,
            "macs_seconds": args.macs_seconds,
            "inference": inference,
        }
        if date := quiet_date(systems, precisions, machine["cpu"], of):
            logger.warning(
                f"kept the times of {date}, when this machine was quiet: now "
                f"{machine['warning']}"
            )
            return
        logger.warning(f"times will vary: {machine['warning']}")
    logger.info(f"{len(audio)} utterances, {audio_seconds:.1f} s, {args.rounds} rounds")
    start, session = time.monotonic(), uuid.uuid4().hex
    seconds = time_rounds(
        timed,
        audio,
        args.rounds,
        progress=lambda done: logger.info(
            f"round {done} of {args.rounds} done{time_left(start, done, args.rounds)}"
        ),
    )
    for system in systems:
        model, _ = load_model(system.config, system.model)
        names = [system.name, system.by_espnet]
        names += [f"{system.name} {precision}" for precision in precisions]
        rtf, by_espnet, *lower = (
            {c: summarise(s, audio_seconds) for c, s in seconds.get(name, {}).items()}
            for name in names
        )
        result = {
            "system": system.name,
            "session": session,  # only times of one session can be compared
            "model": str(system.model),
            "sha256": fingerprint(system.model),
            "params": count_params(model),
            "macs_per_second": count_macs(
                model, train_args[system.name], args.macs_seconds
            ),
            "macs_seconds": args.macs_seconds,
            "bytes": system.model.stat().st_size,
            "rtf": rtf,
            "rtf_espnet": by_espnet or None,
            "rtf_by_precision": dict(zip(precisions, lower, strict=True)),
            "delay": delay_of(loaded[system.name]),
            "inference": inference,
            "decoding": args.inference_config and args.inference_config.stem,
            "machine": machine,
            "data": str(args.data),
            "utterances": len(audio),
            "audio_seconds": audio_seconds,
            "rounds": args.rounds,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(system.out / RESULT, result)
        for name, factors in zip(names, (rtf, by_espnet, *lower), strict=True):
            medians = (f"{c} {r['median']:.4f}" for c, r in factors.items())
            if factors:
                logger.info(f"{name}: RTF {', '.join(medians)}")


if __name__ == "__main__":
    run_main(main)
