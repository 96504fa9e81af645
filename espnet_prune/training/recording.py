"""Record what passes through student and teacher, and let both hear the same."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from espnet_prune.families.espnet.chunks import in_time
from espnet_prune.families.espnet.conditioning import lent
from espnet_prune.families.espnet.layers import content


@dataclass
class Record:
    """The record of what passes through a model in one forward pass."""

    speech: tuple[Tensor, Tensor] | None = None  # (batch, sample), lengths
    states: list[Tensor] = field(default_factory=list)  # (batch, frame, channel)
    state_lengths: Tensor | None = None  # (batch,) of the frontend's states
    augment: Callable[..., tuple[Tensor, Tensor]] | None = None
    features: tuple[Tensor, Tensor] | None = None  # (batch, frame, feature), lengths
    hidden: dict[int, Tensor] = field(default_factory=dict)  # (batch, time, channel)
    encoded: tuple[Tensor, Tensor] | None = None  # (batch, time, channel), lengths
    decoder_input: tuple[Tensor, Tensor] | None = None  # (batch, token), lengths
    decoder_logits: Tensor | None = None  # (batch, token, vocabulary)


@contextmanager
def record(model: AbsESPnetModel, frontend: bool = False) -> Iterator[Record]:
    """Record what passes through encoder and decoder while the context is open.

    ESPnet's model keeps these tensors to itself; hooks get at them without a copy of
    its forward.

    Args:
        model: student or teacher.
        frontend: whether what passes through its frontend is recorded, too: the states
            of a self-supervised encoder, what goes into its blocks first.
    """
    rec = Record()
    # Blocks of a narrow encoder: to where their channels were. ESPnet's are never so.
    spread = getattr(model.encoder, "spread", nn.Identity())

    def on_encoder(_module, args, output):
        rec.features, rec.encoded = args[:2], (content(output[0]), output[1])

    def on_decoder(_module, args, output):
        rec.decoder_input, rec.decoder_logits = args[2:4], output[0]

    def on_frontend(_module, args, _output):
        rec.speech = args[:2]

    def on_upstream(_module, _args, output):
        rec.states, (rec.state_lengths, *_) = output

    def on_augment(module, args):
        rec.augment = drawn_again(module, args[0].device)

    def on_block(index):
        def hook(_module, _args, output):
            rec.hidden[index] = spread(in_time(model.encoder, content(output[0])))

        return hook

    with ExitStack() as stack:
        pairs = [(model.encoder, on_encoder)]
        pairs += [(b, on_block(i)) for i, b in enumerate(model.encoder.encoders)]
        if model.decoder is not None:
            pairs.append((model.decoder, on_decoder))
        if frontend:
            pairs.append((model.frontend, on_frontend))
            pairs.append((model.frontend.upstream, on_upstream))
            if model.specaug is not None:
                handle = model.specaug.register_forward_pre_hook(on_augment)
                stack.callback(handle.remove)
        for module, hook in pairs:
            stack.callback(module.register_forward_hook(hook).remove)
        yield rec


@torch.no_grad()
def run_teacher(
    teacher: AbsESPnetModel, decoder: nn.Module | None, student: Record
) -> Record:
    """Run the teacher once on the very features (augmented) that the student saw.

    A student whose frontend learns hears by that: the teacher hears by its own then,
    the same audio, augmented alike.

    Args:
        teacher: the model.
        decoder: the teacher's, if its outputs are needed, too.
        student: what passed through the student.
    """
    own = student.speech is not None
    with record(teacher, own) as rec:
        features = heard(teacher, student) if own else student.features
        teacher.encoder(*features, **lent(teacher))
    if decoder is not None and student.decoder_input is not None:
        rec.decoder_logits, _ = decoder(*rec.encoded, *student.decoder_input)
    return rec


def heard(teacher: AbsESPnetModel, student: Record) -> tuple[Tensor, Tensor]:
    """Make a teacher's features of what the student heard, as ESPnet's model does.

    Args:
        teacher: the model.
        student: what passed through the student.

    Returns:
        (batch, frame, feature) and lengths (batch,).
    """
    with torch.autocast(student.speech[0].device.type, enabled=False):
        found = teacher.frontend(*student.speech)
        if student.augment is not None:
            found = student.augment(*found)
        if teacher.normalize is not None:
            found = teacher.normalize(*found)
    return found if teacher.preencoder is None else teacher.preencoder(*found)


def drawn_again(
    augment: nn.Module, device: torch.device
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return an augmentation that draws what this one is about to draw.

    Args:
        augment: ESPnet's.
        device: of its input.
    """
    gpus = [device] if device.type == "cuda" else []
    cpu, gpu = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in gpus]

    def run(*features: Tensor) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(gpus):
            torch.set_rng_state(cpu)
            for state, where in zip(gpu, gpus, strict=True):
                torch.cuda.set_rng_state(state, where)
            return augment(*features)

    return run
