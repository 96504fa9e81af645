"""Run ``espnet2.bin.asr_inference`` with the prunable encoder registered (stage 15).

``s2t_inference`` beside it does the same with ESPnet's program for OWSM,
``asr_inference_streaming`` with that for streaming models.

ESPnet would decode with random weights where a checkpoint misses some: those of our
models are checked. Others are ESPnet's, which reads more kinds of files than we do.
There is one option more than ESPnet's, ``--precision`` of the encoder (fp32, bf16,
int8); and ``--config`` may ask for a decoder of the project's (``ctc_greedy``,
``ctc_beam``), or for ESPnet's streaming one (``sim_chunk_length``).
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

from espnet2.bin import asr_inference_streaming as espnet_streaming

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml
from espnet_prune.families.espnet.checkpoint import load_model, plain_file
from espnet_prune.families.espnet.tasks import ASR, Task, task_of
from espnet_prune.serving.decoders import OWN, decoder_for, read_search
from espnet_prune.serving.load import refuse_gates, set_precision
from espnet_prune.serving.streaming import PART
from espnet_prune.training.registration import names_ours


def main() -> None:
    run(ASR)


def run(task: Task, streaming: bool = False) -> None:
    """Run the program of a task, or the one for streaming models."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    hidden = {"type": Path, "help": argparse.SUPPRESS}
    parser.add_argument(f"--{task.config_option}", dest="model_config", **hidden)
    parser.add_argument(f"--{task.weights_option}", dest="weights", **hidden)
    parser.add_argument(
        "--precision", default="fp32", help="of the encoder: fp32, int8, bf16"
    )
    parser.add_argument(f"--{PART}", type=int, help="samples of a part, if it streams")
    parser.set_defaults(streaming=streaming)
    parser.add_argument("--config", type=Path, help="ctc_greedy, ctc_beam, or ESPnet's")
    args, rest = parser.parse_known_args()
    if {"-h", "--help"} & {*rest}:  # ESPnet's follow
        sys.stdout.write(parser.format_help())
        program = espnet_streaming if streaming else task.inference
        program.get_parser = partial(with_whole_help, program.get_parser)
    if args.model_config:
        config = read_yaml(args.model_config)
        refuse_gates(config, args.model_config)
        if (wanted := task_of(config)) is not task:
            what = f"is of ESPnet's task {wanted.name}, not {task.name}"
            mend = f"use {wanted.name}_inference"
            raise InputError(args.model_config, what, mend)
        if args.weights and names_ours(config):
            load_model(args.model_config, args.weights)
    if args.weights is None:
        return infer(task, args, rest, None)
    with plain_file(args.weights, lenient=True) as file:
        infer(task, args, rest, file)


def infer(
    task: Task, args: argparse.Namespace, rest: list[str], model: str | None
) -> None:
    """Run ESPnet's program.

    Args:
        task: whose program.
        args, rest: the command line, without and with ESPnet's own options.
        model: the file of weights.
    """
    options: dict[str, Any] = {f"--{task.config_option}": args.model_config}
    options[f"--{task.weights_option}"] = model
    part: int | None = getattr(args, PART)
    streaming = args.streaming or part is not None
    search: dict[str, Any] = {PART: 0} if streaming else {}
    if args.config is not None:
        search |= read_search(args.config, task, streaming)
    if part is not None:
        search[PART] = part
    program, name = task.inference, "Speech2Text"
    decoder = decoder_for(search, task)
    if search.keys() & OWN.keys():
        decoder = with_options(decoder, search)
    else:
        options["--config"] = args.config
    if PART in search:
        program, name = espnet_streaming, "Speech2TextStreaming"
        decoder = with_options(decoder, {PART: search[PART]})
        rest = [*rest, f"--{PART}", "0"]  # the decoder makes the parts, not the program
    if args.precision != "fp32":
        decoder = in_precision(args.precision, args.model_config, decoder)
    setattr(program, name, decoder)
    files = [str(x) for pair in options.items() if pair[1] for x in pair]
    hand_logging_to_espnet()
    program.main([*files, *rest])


def with_whole_help(
    make: Callable[[], argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Make ESPnet's parser, whose help a bare percent sign ends in 202611."""
    parser = make()
    for action in parser._actions:
        action.help = re.sub(r"%%|%(?!\()", "%%", action.help or "")
    return parser


def with_options(decoder: type, own: dict[str, Any]) -> type:
    """Subclass a decoder of the project's, which ESPnet's program gives its options."""

    class WithOptions(decoder):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options, **own)

    return WithOptions


def in_precision(precision: str, config: Path, decoder: type) -> type:
    """Subclass ESPnet's decoder, which its program builds by name, for a precision."""

    class InPrecision(decoder):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            set_precision(self, precision, config)

    return InPrecision


if __name__ == "__main__":
    run_main(main)
