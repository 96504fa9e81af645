"""A system that stage 17 measures, and the ``measure.json`` that it leaves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import fingerprint
from espnet_prune.families.espnet.checkpoint import load_model, plain_file
from espnet_prune.families.espnet.tasks import task_of
from espnet_prune.serving.decoders import check_symbols, decoder_for
from espnet_prune.serving.load import set_precision

RESULT = "measure.json"


@dataclass(frozen=True)
class System:
    """One model to measure, ``NAME=CONFIG:MODEL:OUT`` on the command line.

    Args:
        name: what it is called.
        config: its ``config.yaml``.
        model: its weights.
        out: directory of its ``measure.json``; made if it is not there.
    """

    name: str
    config: Path
    model: Path
    out: Path

    @classmethod
    def parse(cls, text: str) -> "System":
        """The method reads one from the command line.

        Raises:
            InputError: a part is missing, or a file is not there.
        """
        name, _, paths = text.partition("=")
        parts = paths.split(":")
        if not name or len(parts) != 3 or not all(parts):
            raise InputError("--system", f"{text!r} is not NAME=CONFIG:MODEL:OUT")
        system = cls(name, *map(Path, parts))
        for path in (system.config, system.model):
            if not path.is_file():
                raise InputError(path, "no such file", "train or export it first")
        return system

    def load(self, inference: dict[str, Any], own: bool = False) -> Speech2Text:
        """Build ESPnet's decoder for this model, on the CPU.

        Args:
            inference: decoding options.
            own: keep ESPnet's encoder.

        Raises:
            InputError: config and weights do not match; ESPnet would not notice.
        """
        args = load_model(self.config, self.model)[1]
        check_symbols(inference, args.token_list, self.config)
        make = decoder_for(inference, task_of(vars(args)))
        with plain_file(self.model) as file:
            decoder = make(str(self.config), file, **inference)
        if not own:
            set_precision(decoder, "fp32", self.config)
        return decoder

    @property
    def by_espnet(self) -> str:
        """Name the same model with ESPnet's encoder."""
        return f"{self.name} (ESPnet's encoder)"


def quiet_date(
    systems: list[System], precisions: list[str], cpu: str, of: dict[str, Any]
) -> str | None:
    """The function returns when the same models were timed together on this machine
    while it was quiet; None if they were not.

    Args:
        systems, precisions: what is to be timed.
        cpu: of this machine.
        of: what else must be the same, as ``measure.json`` has it.
    """
    sessions = {}
    for system in systems:
        path = system.out / RESULT
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = (
                found["sha256"] == fingerprint(system.model)
                and not found["machine"]["warning"]
                and found["machine"]["cpu"] == cpu
                and list(found["rtf_by_precision"]) == precisions
                and all(found[name] == value for name, value in of.items())
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not same:
            return None
        sessions[found["session"]] = found["date"]
    return found["date"] if len(sessions) == 1 else None
