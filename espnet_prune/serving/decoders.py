"""Which decoder a decoding config asks for: ESPnet's search, or the project's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet2.bin.asr_inference import Speech2Text
from espnet2.bin.asr_inference_streaming import get_parser as streaming_parser

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.options import make_options
from espnet_prune.families.espnet.tasks import ASR, Task, require_asr
from espnet_prune.serving.beam import BeamOptions, BeamSpeech2Text
from espnet_prune.serving.greedy import GreedySpeech2Text
from espnet_prune.serving.streaming import PART, StreamingSpeech2Text

SYMBOLS = {"lang_sym", "task_sym"}  # options of ESPnet's S2T
# Key of a config that asks for a decoder of the project's.
OWN: dict[str, type[Speech2Text]] = {
    "ctc_greedy": GreedySpeech2Text,
    "ctc_beam": BeamSpeech2Text,
}


def decoder_for(
    options: Mapping[str, Any], task: Task
) -> type[Speech2Text | StreamingSpeech2Text]:
    """Choose the class that takes the options of decoding.

    Args:
        options: of decoding.
        task: of the model.

    Raises:
        InputError: a decoder of the project's is asked for, which are for ASR.
    """
    for key, own in (OWN | {PART: StreamingSpeech2Text}).items():
        if options.get(key, False) is not False:
            require_asr(task, key, "leave it out")
            return own
    return task.inference.Speech2Text


def read_search(
    source: Path, task: Task = ASR, streaming: bool = False
) -> dict[str, Any]:
    """Read a decoding config, and refuse what no decoder takes.

    Args:
        source: the file.
        task: of the model.
        streaming: whether the search streams, even if the file does not say so.

    Raises:
        InputError: an option that there is not, of a wrong value, or that does not go
            with another one.
    """
    options = read_yaml(source)
    for key in OWN:
        if key in options:
            if others := sorted(options.keys() - {key}):
                what = f"{others} do not go with {key}"
                raise InputError(source, what, "leave them out")
            if streaming:
                raise InputError(source, f"{key} does not stream", "leave it out")
            if key == "ctc_greedy" and options[key] is not True:
                raise InputError(source, "ctc_greedy: must be true", "or leave it out")
            if key == "ctc_beam":
                check_beam(options[key], source)
            return options
    streaming |= PART in options
    parser = streaming_parser() if streaming else task.inference.get_parser()
    known = {action.dest: action for action in parser._actions}
    if unknown := sorted(options.keys() - known.keys()):
        raise InputError(source, f"no option {unknown[0]!r} of ESPnet's search")
    for name, value in options.items():
        check_value(name, value, known[name].type, source)
    for name in SYMBOLS & options.keys():  # ESPnet's program takes eng for <eng>, too
        options[name] = f"<{str(options[name]).strip('<>')}>"
    return options


def check_symbols(
    options: Mapping[str, Any], tokens: Sequence[str], where: object
) -> None:
    """Refuse a language or a task that a model of S2T has no symbol of.

    Args:
        options: of decoding.
        tokens: of the model.
        where: the file to name.

    Raises:
        InputError: it has none.
    """
    for name in sorted(SYMBOLS & options.keys()):
        if (symbol := options[name]) not in tokens:
            what = f"{name}: the model has no token {symbol!r}"
            raise InputError(where, what, "see token_list in its config.yaml")


def check_value(name: str, value: Any, kind: Any, source: Path) -> None:
    """Refuse a value of another type than ESPnet's, or outside its range.

    Args:
        name, value: of an option of ESPnet's search.
        kind: what ESPnet makes of text; None: it stays text.
        source: for the message.
    """
    if kind in (int, float) and value is not None:
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if not number:
            what = f"{name} must be of type {kind.__name__}, not {value!r}"
            raise InputError(source, what)
        if name == "ctc_weight" and not 0 <= value <= 1:
            raise InputError(source, f"ctc_weight must be in [0, 1], not {value}")
        if name == PART and value < 0:
            raise InputError(source, f"{PART} must not be negative")
        if name in ("beam_size", "nbest") and value < 1:
            raise InputError(source, f"{name} must be at least 1, not {value}")


def check_beam(given: dict[str, Any] | None, source: Path) -> None:
    """Refuse options of the beam search that there are not, or of wrong values."""
    try:
        options = make_options(BeamOptions, "ctc_beam", given or {})
    except OptionError as e:
        raise InputError(source, str(e)) from e
    if options.lm is not None and not Path(options.lm).is_file():
        what = f"ctc_beam: lm {options.lm} does not exist"
        raise InputError(source, what, "give an ARPA or binary file of KenLM")
