"""Measure what a step of pruning costs beside a step of ESPnet's own training."""

import argparse
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask

from espnet_prune.bench.systems import FRAMES_PER_SECOND, Size
from espnet_prune.config.sections import GateOptions, SparsityOptions
from espnet_prune.families.espnet.model import Lengths, describe
from espnet_prune.families.registry import KINDS
from espnet_prune.measuring.clock import turn
from espnet_prune.measuring.memory import peak_bytes
from espnet_prune.training.plan import make_budget
from espnet_prune.training.student import budget_data
from espnet_prune.training.task import PruneASRTask

RATE = 16000
TOKENS = ["<blank>", "<unk>", *(f"t{i}" for i in range(97)), "<sos/eos>"]
TOKENS_PER_SECOND = 3


def _arguments(size: Size) -> dict[str, Any]:
    """Return ESPnet's options of a CTC/attention model around this encoder."""
    args = vars(ASRTask.get_parser().parse_args([]))
    hop = RATE // FRAMES_PER_SECOND
    return args | {
        "token_list": TOKENS,
        "frontend_conf": {"n_fft": 512, "hop_length": hop, "n_mels": size.features},
        "normalize": "utterance_mvn",
        "encoder": "conformer",
        "encoder_conf": size.conf(),
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 4, "linear_units": 256, "num_blocks": 1},
        "model_conf": {"ctc_weight": 0.5, "report_cer": False, "report_wer": False},
        "teacher_config": None,
    }


def _student(size: Size, distilled: bool, seconds: float) -> ESPnetASRModel:
    args = _arguments(size)
    stock = ASRTask.build_model(argparse.Namespace(**args))
    gates, options = GateOptions(), SparsityOptions()
    described = describe(stock, KINDS["conformer"], gates)
    lengths = Lengths(round(seconds * FRAMES_PER_SECOND), size.features)
    budget = make_budget(options, described, lengths)
    args["model"] = "prune"
    weight = 4.0 if distilled else 0.0
    args["model_conf"] = args["model_conf"] | {
        "gates": asdict(gates),
        "sparsity": asdict(options),
        "budget": budget_data(budget, lengths, None),
        "distill": {"layer_weight": weight, "output_weight": 0.0},
    }
    model = PruneASRTask.build_model(argparse.Namespace(**args))
    model.sparsity.total_steps = 1000
    if distilled:
        teacher = argparse.Namespace(**_arguments(size))
        model.set_teacher(ASRTask.build_model(teacher))
    return model


def training_steps(
    size: Size, batch: int, seconds: float, device: torch.device
) -> dict[str, Callable[[], None]]:
    """Make the steps: forward, backward and update on one batch of noise.

    Returns:
        ``stock``: ESPnet's dense model; ``gated``: the student with gates and the
        Lagrangian, without a teacher; ``pruning``: with teacher and distillation.
    """
    samples, tokens = round(RATE * seconds), max(1, round(TOKENS_PER_SECOND * seconds))
    data = {
        "speech": 0.1 * torch.randn(batch, samples),
        "speech_lengths": torch.full((batch,), samples),
        "text": torch.randint(2, len(TOKENS) - 1, (batch, tokens)),
        "text_lengths": torch.full((batch,), tokens),
    }
    data = {name: value.to(device) for name, value in data.items()}
    stock = ASRTask.build_model(argparse.Namespace(**_arguments(size)))
    models = {
        "stock": stock,
        "gated": _student(size, False, seconds),
        "pruning": _student(size, True, seconds),
    }
    steps = {}
    for name, model in models.items():
        model.to(device).train()
        if model is stock:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
        else:
            conf = argparse.Namespace(optim_conf={"lr": 1e-4})
            (optimizer,) = PruneASRTask.build_optimizers(conf, model)

        def step(model=model, optimizer=optimizer) -> None:
            loss, _, _ = model(**data)
            loss.backward()
            if model is stock:  # ours clips in its own step
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()

        steps[name] = step
    return steps


def time_training(
    size: Size, batch: int, seconds: float, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Time the steps in turns.

    Returns:
        a row for each, with the keys of the encoders' rows: ``rtf`` is time per second
        of audio, ``peak_bytes`` are those beyond the model and its optimizer, ``macs``
        is not known, ``ratio`` is that to ``stock``.
    """
    steps = training_steps(size, batch, seconds, device)
    for step in steps.values():
        step()  # makes gradients and the optimizer's state
    peaks = {name: peak_bytes(step, device) for name, step in steps.items()}
    order = random.Random(0)
    taken = [turn(steps, order, device) for _ in range(rounds)]
    by_step = {name: [took[name] for took in taken] for name in steps}
    rows = []
    for name, times in by_step.items():
        low, median, high = np.percentile(times, [25, 50, 75])
        rows.append(
            {
                "system": name,
                "precision": "fp32",
                "target": None,
                "threads": torch.get_num_threads(),
                "seconds": seconds,
                "batch": batch,
                "median_s": float(median),
                "iqr_s": float(high - low),
                "rtf": float(median / seconds / batch),
                "macs": None,
                "efficiency": None,
                "ratio": float(median / np.median(by_step["stock"])),
                "peak_bytes": peaks[name],
            }
        )
    return rows
