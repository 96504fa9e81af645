"""Count the configs of ESPnet's own recipes whose models can be pruned.

``python -m tests.families.count_egs2`` prints for each kind of encoder how many can,
and why the others cannot; with the folder of an ESPnet checkout behind it, it first
writes what matters of that one's configs into egs2_configs.json.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.prunable import check_gates, check_student

# Of the ASR training configs of ESPnet 202511 (6d08480, Apache-2.0): a line for each
# set of options, and the paths under egs2/ that have it.
FACTS = Path(__file__).with_name("egs2_configs.json")
KEPT = (
    "encoder", "decoder", "preencoder", "postencoder", "frontend", "joint_net_conf",
    "model",
)  # fmt: skip


def read_facts(checkout: Path) -> dict[str, list[str]]:
    """Return sets of options, as JSON -> the paths under egs2/ that have them."""
    found = defaultdict(list)
    for path in sorted(checkout.glob("egs2/*/asr1/conf/**/*.yaml")):
        # A link stands for a config that is read elsewhere.
        config = None if path.is_symlink() else yaml.safe_load(path.read_text())
        if not isinstance(config, dict) or "encoder" not in config:
            continue  # it is none of a training of ASR
        facts = {name: config[name] for name in KEPT if name in config}
        for part in ("encoder", "decoder"):
            if str(config.get(part)).endswith("former"):
                options = config.get(f"{part}_conf") or {}
                facts[f"{part}_conf"] = {  # sizes and rates are free
                    k: v for k, v in options.items() if type(v) not in (int, float)
                }
        path_in_egs2 = path.relative_to(checkout / "egs2").as_posix()
        found[json.dumps(facts, sort_keys=True)].append(path_in_egs2)
    return found


def write_facts(checkout: Path) -> None:
    """Write the facts of a checkout for :func:`count`."""
    lines = [
        json.dumps(json.loads(facts) | {"paths": paths})
        for facts, paths in sorted(read_facts(checkout).items())
    ]
    FACTS.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def count(decoder: bool = False) -> dict[str, Counter[str]]:
    """Return for each kind of encoder how many configs are refused for what.

    Args:
        decoder: whether the decoder is to be pruned, too.

    Returns:
        the name of the encoder -> the first reason -> the number of configs; those that
        can be pruned are under "".
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for facts in json.loads(FACTS.read_text()):
        reason = ""
        try:
            check_student(facts, "")
            check_gates(facts, "", ["decoder"] * decoder)
        except InputError as e:  # ": what (why) -> mend"
            reason = str(e)[2:].partition(" -> ")[0].partition(" (")[0]
        counts[str(facts["encoder"])][reason] += len(facts["paths"])
    return counts


def main(checkout: str | None = None) -> None:
    """Print the table; read the configs of a checkout anew where one is given."""
    if checkout:
        write_facts(Path(checkout))
    alone, both = count(), count(decoder=True)
    print(f"{'encoder':<30}configs  pruned  with its decoder")
    for name in sorted(both, key=lambda name: -both[name].total()):
        total, reasons = both[name].total(), both[name]
        print(f"{name:<30}{total:7}{alone[name]['']:8}{reasons.pop('', 0):18}")
        for reason, number in reasons.most_common():
            print(f"{number:7}  {reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
