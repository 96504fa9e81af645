"""Write a model as ONNX: from audio to the CTC's log probabilities, for onnxruntime.

    python -m espnet_prune.cli.export_onnx exp/synth_compact_params50

writes ``model.onnx`` there (and ``model.int8.onnx`` with ``--int8``), once onnxruntime
makes the features of noise that ESPnet makes, and of them the same log probabilities
(in int8: nearly). Input ``speech`` (batch, sample) in [-1, 1], without padding;
outputs ``log_probs`` (batch, time, token) and ``features`` (batch, frame, mel).
Metadata: ``tokens`` (JSON), ``sampling_rate``, ``token_type``; token 0 is CTC's blank.
``local/decode_onnx.py`` reads it.
"""

import argparse
import json
import logging
from pathlib import Path

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_path
from espnet_prune.config.rungs import FINETUNED, PRUNED
from espnet_prune.export.recognizer import Recognizer
from espnet_prune.families.espnet.checkpoint import load_model, sampling_rate
from espnet_prune.families.espnet.graph import MIN_FRAMES
from espnet_prune.serving.int8 import write_int8
from espnet_prune.serving.load import refuse_gates, runs
from espnet_prune.serving.onnx import Runner, difference, write_onnx
from espnet_prune.training.task import PruneASRTask  # noqa: F401  (knows pruning runs)

# Of outputs, relative to the largest.
TOLERANCE, INT8_TOLERANCE = 1e-4, 0.2
WEIGHTS = (FINETUNED, PRUNED, "valid.acc.ave.pth")
SECONDS = (0.3, 1.0, 3.7, 12.0)  # lengths at which the outputs are compared


def differences(
    run: Runner, model: ESPnetASRModel, audio: list[Tensor]
) -> tuple[float, float]:
    """Measure how far onnxruntime's outputs are from ESPnet's.

    Args:
        run: of a file that this program wrote.
        model: what it was written from.
        audio: each (batch, sample), without padding.

    Returns:
        the largest difference of features; and that of log probabilities that both make
        of the same features, so that a model which amplifies rounding is not blamed.
    """
    found = [(0.0, 0.0)]
    for speech in audio:
        log_probs, features = run(speech)
        with torch.no_grad():
            lengths = torch.full((len(speech),), speech.shape[1])
            wanted, frames = model._extract_feats(speech, lengths)
            if model.normalize is not None:
                wanted, frames = model.normalize(wanted, frames)
            encoded, *_ = model.encoder(torch.from_numpy(features), frames)
            expected = model.ctc.log_softmax(encoded)
        found.append((difference(features, wanted), difference(log_probs, expected)))
    by_features, by_log_probs = zip(*found, strict=True)
    return max(by_features), max(by_log_probs)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("exp", type=Path, help="directory of the model's config.yaml")
    parser.add_argument("--model", type=Path, help=f"weights; default: {WEIGHTS} in it")
    parser.add_argument("--out", type=Path, help="default: EXP/model.onnx")
    parser.add_argument("--int8", action="store_true", help="write that one, too")
    return parser


def weights_of(exp: Path) -> Path:
    """Find the weights of an experiment: the fine-tuned ones, if there are any."""
    for name in WEIGHTS:
        if (exp / name).is_file():
            return exp / name
    if not exp.is_dir():
        raise InputError(
            exp, "no such directory", "run stage 13 of it, or name another"
        )
    raise InputError(exp, f"holds none of {', '.join(WEIGHTS)}", "give --model FILE")


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    config = args.exp / "config.yaml"
    weights = args.model or weights_of(args.exp)
    if args.out is not None and args.out.is_dir():
        raise InputError("--out", f"{args.out} is a directory", "name a file in it")
    model, train_args = load_model(config, weights)
    refuse_gates(vars(train_args), config)
    runs(vars(train_args), "int8", config)
    rate = sampling_rate(train_args)
    graph = Recognizer(model).eval()
    metadata = {
        "tokens": json.dumps(list(model.token_list), ensure_ascii=False),
        "sampling_rate": str(rate),
        "token_type": train_args.token_type,
    }
    path = args.out or args.exp / "model.onnx"
    logging.info(f"exporting {weights} (takes a minute)")
    shortest = MIN_FRAMES * graph.features.hop + len(graph.features.basis)
    audio = [0.1 * torch.randn(n, round(s * rate)) for s in SECONDS for n in (1, 2)]
    with atomic_path(path) as file:
        write_onnx(
            graph,
            torch.randn(2, rate),
            file,
            ("speech", "samples"),
            ["log_probs", "features"],
            shortest,
            metadata,
        )
        found = differences(Runner(file), model, audio)
        if not all(by < TOLERANCE for by in found):
            raise InputError(
                weights,
                "onnxruntime's outputs differ from ESPnet's by {:.2g} (features) and "
                "{:.2g} (log probabilities)".format(*found),
                "please report this, with the config",
            )
    log_file(path, found[1])
    if args.int8:
        small = path.with_suffix(".int8.onnx")
        with atomic_path(small) as file:
            # Powers span too many magnitudes for eight bits.
            write_int8(path, file, keep="features")
            found = differences(Runner(file), model, audio)
            if not found[1] < INT8_TOLERANCE:
                raise InputError(
                    weights,
                    f"in int8 its log probabilities change by {found[1]:.2g}",
                    "leave out --int8",
                )
        log_file(small, found[1])


def log_file(path: Path, by: float) -> None:
    size = path.stat().st_size / 1e6
    logging.info(f"{path}: {size:.2f} MB, log_probs within {by:.1g} of ESPnet's")


if __name__ == "__main__":
    run_main(main)
