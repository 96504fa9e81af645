"""Let a model hear audio, and compress its student by what the layers heard."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet.layers import content
from espnet_prune.families.espnet.model import ENCODER
from espnet_prune.families.registry import find_kind
from espnet_prune.pruning.compression import Choice, Compression
from espnet_prune.pruning.heads import turn
from espnet_prune.pruning.moments import Moments, collecting, is_dense
from espnet_prune.training.student import RecognizerStudent, lengths_in


def compress(
    student: RecognizerStudent, model_conf: dict[str, Any], audio: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Close gates of a student and lower ranks of its weights, which are changed.

    Args:
        student: with gates, the teacher's weights, and that teacher.
        model_conf: of its config.
        audio: float32 (sample,) each, at the model's rate.

    Returns:
        ``model_conf`` with the ranks in its ``plan``, by layer, and with the budget
        that they leave to all else.

    Raises:
        InputError: the target cannot be met.
    """
    teacher, budget = student.teacher, student.sparsity.budget
    kind = find_kind(model_conf["encoder_kind"])
    about = kind.describe(teacher.encoder, GateOptions(), gated=False, prefix=ENCODER)
    clocks = lengths_in(model_conf["budget"]).clocks(teacher.encoder)
    times = about.work(clocks).times
    named = {n: m for n, m in teacher.named_modules() if f"{n}.weight" in times}
    layers = {name: layer for name, layer in named.items() if is_dense(layer)}
    moments = hear(teacher, layers, audio)
    inner = turn(budget.layout, dict(teacher.named_parameters()), moments)
    student.load_state_dict(student.state_dict() | teacher.state_dict())
    choice = Choice(budget, layers, moments, times, inner).best()
    apply(choice, student)
    saved = choice.saved
    constraints = [
        replace(c, fixed=c.fixed - saved[c.kind], beyond=c.beyond - saved[c.kind])
        for c in budget.constraints
    ]
    left = model_conf["budget"] | {"constraints": [c.to_dict() for c in constraints]}
    plan = model_conf["plan"] | {"ranks": choice.ranks, "saved": saved}
    return model_conf | {"budget": left, "plan": plan}


@torch.no_grad()
def apply(choice: Compression, student: RecognizerStudent) -> None:
    """Give a student the weights and the gates of a choice."""
    for name, weight in choice.weights.items():
        layer = student.get_submodule(name)
        layer.weight.copy_(weight[:, :-1].reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(weight[:, -1])
    is_open = student.gates.gather(choice.own).bool()
    student.gates.log_alpha.copy_(torch.where(is_open, 1.0, -1.0))


def hear(
    model: AbsESPnetModel, layers: Iterable[str], audio: Iterable[np.ndarray]
) -> dict[str, Moments]:
    """Collect the moments of layers of a model's encoder.

    What matters is what CTC says, by labels drawn from its own probabilities, and all
    that the encoder gives, by random directions: each has half of the say.

    Args:
        model: dense, in evaluation mode.
        layers: names in it.
        audio: float32 (sample,) each: one by one, so that nothing is padded.

    Returns:
        them, by name of the layer.
    """
    generator = torch.Generator().manual_seed(0)

    def by_itself(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs[0].detach().requires_grad_(), *inputs[1:]

    handle = model.encoder.register_forward_pre_hook(by_itself)
    try:
        with collecting(model, layers) as moments, torch.enable_grad():
            for samples in audio:
                speech = torch.from_numpy(samples)[None]
                lengths = torch.tensor([speech.shape[1]])
                encoded = content(model.encode(speech, lengths)[0])
                encoded.backward(direction(model, encoded.detach(), generator))
    finally:
        handle.remove()
    return dict(moments)


def direction(
    model: AbsESPnetModel, encoded: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw a gradient of what an encoder gives, (1, time, channel)."""
    signs = torch.randint(0, 2, encoded.shape, generator=generator) * 2.0 - 1
    if model.ctc is None:
        return signs
    encoded.requires_grad_()
    told = model.ctc.log_softmax(encoded)
    drawn = torch.multinomial(told.detach()[0].exp(), 1, generator=generator)
    (gradient,) = torch.autograd.grad(told[0].gather(1, drawn).sum(), encoded)
    return signs + gradient / gradient.square().mean().sqrt().clamp(min=1e-12)
