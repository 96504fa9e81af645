"""Which decoder a decoding config asks for: ESPnet's search, or the project's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet2.bin.asr_inference import Speech2Text
from espnet2.bin.asr_inference import get_parser as espnet_parser
from espnet2.bin.asr_inference_streaming import get_parser as streaming_parser

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.options import make_options
from espnet_prune.serving.beam import BeamOptions, BeamSpeech2Text
from espnet_prune.serving.greedy import GreedySpeech2Text
from espnet_prune.serving.streaming import PART, StreamingSpeech2Text

# Key of a config that asks for a decoder of the project's.
OWN: dict[str, type[Speech2Text]] = {
    "ctc_greedy": GreedySpeech2Text,
    "ctc_beam": BeamSpeech2Text,
}


def decoder_for(options: Mapping[str, Any]) -> type[Speech2Text | StreamingSpeech2Text]:
    """Choose the class that takes the options of a config."""
    if PART in options:
        return StreamingSpeech2Text
    asked = (cls for key, cls in OWN.items() if options.get(key, False) is not False)
    return next(asked, Speech2Text)


def read_search(source: Path) -> dict[str, Any]:
    """Read a decoding config, and refuse what no decoder takes.

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
            if key == "ctc_greedy" and options[key] is not True:
                raise InputError(source, "ctc_greedy: must be true", "or leave it out")
            if key == "ctc_beam":
                check_beam(options[key], source)
            return options
    parser = streaming_parser() if PART in options else espnet_parser()
    known = {action.dest: action for action in parser._actions}
    if unknown := sorted(options.keys() - known.keys()):
        raise InputError(source, f"no option {unknown[0]!r} of ESPnet's search")
    for name, value in options.items():
        check_value(name, value, known[name].type, source)
    return options


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
