"""Which decoder a decoding config asks for: ESPnet's search, or the project's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet2.bin.asr_inference import Speech2Text
from espnet2.bin.asr_inference import get_parser as espnet_parser

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.options import make_options
from espnet_prune.serving.beam import BeamOptions, BeamSpeech2Text
from espnet_prune.serving.greedy import GreedySpeech2Text

# Key of a config that asks for a decoder of the project's.
OWN: dict[str, type[Speech2Text]] = {
    "ctc_greedy": GreedySpeech2Text,
    "ctc_beam": BeamSpeech2Text,
}


def decoder_for(options: Mapping[str, Any]) -> type[Speech2Text]:
    """Choose the class that takes the options of a config."""
    return next((cls for key, cls in OWN.items() if options.get(key)), Speech2Text)


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
    known = {action.dest for action in espnet_parser()._actions}
    if unknown := sorted(options.keys() - known):
        raise InputError(source, f"no option {unknown[0]!r} of ESPnet's search")
    return options


def check_beam(given: dict[str, Any] | None, source: Path) -> None:
    """Refuse options of the beam search that there are not, or of wrong values."""
    try:
        options = make_options(BeamOptions, "ctc_beam", given or {})
    except OptionError as e:
        raise InputError(source, str(e)) from e
    if options.lm is not None and not Path(options.lm).is_file():
        what = f"ctc_beam: lm {options.lm} does not exist"
        raise InputError(source, what, "give an ARPA or binary file of KenLM")
