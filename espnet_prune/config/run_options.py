"""Check the options of ``run.sh``: what each may be, and what contradicts each other.

    python -m espnet_prune.config.run_options --stage=1 --target=0.5 ...

prints a line for each rung: its method, and the names of its pruned and compact model.
It takes what the standard library can check, before any environment is there; the rest
is in :mod:`espnet_prune.cli.check_early`.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.config.methods import METHODS, SLIMMABLE
from espnet_prune.config.rungs import FINETUNED, PRUNED, Rung, make_rungs
from espnet_prune.config.sections import COSTS

EXECUTORS = ("local", "slurm")
PRECISIONS = ("fp32", "bf16", "int8")  # of an encoder's numbers
# Option -> what its whole value must look like, and the mend.
_COUNT = r"[1-9]\d*"
_SECONDS = r"\d*\.?\d+"
FORMS = {
    "skip_stages": (r"[\d ]*", 'numbers, blanks between, as "2 5"'),
    "tag": (r"[A-Za-z0-9._-]*", "letters, digits, dots, _ and -: names begin with it"),
    "seed": (r"\d*", "give a number"),
    "round_to": (_COUNT, "give a number from 1 on"),
    "soup": (_COUNT, "give a number of fine-tunings from 1 on"),
    "nj": (_COUNT, "give a number of processes"),
    "ngpu": (r"\d+", "give a number of GPUs"),
    "num_nodes": (_COUNT, "give a number from 1 on"),
    "executor": ("|".join(EXECUTORS), " or ".join(EXECUTORS)),
    "executor_args": (
        r"([A-Za-z_]+=[^,]+(,|$))*",
        "give KEY=VALUE,..., as partition=cpu,mem_gb=4",
    ),
    "inference_model": (
        "|".join(map(re.escape, (FINETUNED, PRUNED))),
        f"{FINETUNED} (of stage 14) or {PRUNED} (of stage 13)",
    ),
    "gpu_inference": ("true|false", "true or false"),
    "fs": (r"\d*", "give the rate in Hz, as 16000"),
    "token_type": ("(bpe|char)?", "bpe or char"),
    "nbpe": (rf"({_COUNT})?", "give a number of tokens"),
    "min_wav_duration": (_SECONDS, "give seconds"),
    "max_wav_duration": (_SECONDS, "give seconds"),
    "crop_seconds": (rf"({_SECONDS})?", "give seconds"),
}


def check(given: Mapping[str, str]) -> list[Rung]:
    """Refuse wrong values, and give the rungs that are asked for.

    Args:
        given: option -> value, of either family.

    Raises:
        InputError: names the option, and the mend.
    """
    stages = [given[name] for name in ("stage", "stop_stage")]
    if not all(stage.isdecimal() for stage in stages):
        raise InputError("--stage {} --stop_stage {}".format(*stages), "take numbers")
    for name, (form, mend) in FORMS.items():
        if name in given and not re.fullmatch(form, given[name]):
            raise InputError(f"--{name} {given[name]}", mend)
    for folder, option in (("corpora", "corpus"), ("presets", "preset")):
        known = sorted(path.stem for path in Path("conf", folder).glob("*.sh"))
        if option in given and given[option] not in known:
            where = f"--{option} {given[option]}"
            raise InputError(where, "unknown", f"one of: {' '.join(known)}")
    if given.get("family", "") not in ("", "ssl"):
        where = f"--family {given['family']}"
        raise InputError(where, "unknown", "ssl, or leave it out: ESPnet's models")
    check_launcher(given)
    check_teacher(given)
    check_precisions(given)
    for name in given:
        is_file = name.endswith("_config") or name == "teacher_model"
        if is_file and given[name] and not Path(given[name]).is_file():
            raise InputError(f"--{name} {given[name]}", "is no file")
    targets = targets_of(given)
    methods = several(given, "method")
    for name in methods:
        if name not in METHODS:
            known = " ".join(METHODS)
            raise InputError(f"--method {name}", "unknown", f"one of: {known}")
        if given.get("round_to", "1") != "1" and not METHODS[name].gated:
            what = f"its sizes are even, --round_to {given['round_to']} is for what "
            raise InputError(f"--method {name}", f"{what}is pruned")
    if int(given.get("soup", 1)) > 1 and SLIMMABLE in methods:
        what = f"its weights are of several sizes, --soup {given['soup']} is for one"
        raise InputError(f"--method {SLIMMABLE}", what, "leave out one of the two")
    kinds = given["target_kind"].split("+")
    if set(kinds) - set(COSTS) or len(set(kinds)) < len(kinds):
        mend = f"{', '.join(COSTS)}, or several as params+macs"
        raise InputError(f"--target_kind {given['target_kind']}", mend)
    rounding = int(given.get("round_to", 1))
    return make_rungs(methods, targets, given["target_kind"], rounding)


def several(given: Mapping[str, str], option: str) -> list[str]:
    """Split an option that takes several names, each at most once."""
    names = given[option].split()
    if not names:
        raise InputError(f"--{option}", "names none")
    if len(set(names)) < len(names):
        raise InputError(f"--{option} {given[option]}", "names one twice")
    return names


def targets_of(given: Mapping[str, str]) -> list[float]:
    """Read the rising targets of ``--targets``, or the one of ``--target``."""
    if given["target"] and given["targets"]:
        raise InputError(f"--target {given['target']}", "there is --targets, too")
    asked = {"targets": given["targets"] or given["target"] or "0.5"}
    targets = []
    for text in several(asked, "targets"):
        if not re.fullmatch(r"0?\.\d*[1-9]\d*", text):
            mend = "give fractions between 0 and 1, as 0.5"
            raise InputError(f"--target, --targets {text}", mend)
        targets.append(float(text))
    if targets != sorted(set(targets)):
        raise InputError(f"--targets {asked['targets']}", "they must rise")
    return targets


def check_launcher(given: Mapping[str, str]) -> None:
    """Refuse several machines that nothing would start on."""
    cuda_cmd = given.get("cuda_cmd", "")
    program = cuda_cmd.split(" ")[0]
    if program and not shutil.which(program):
        mend = "give its path, as /path/of/utils/slurm.pl"
        raise InputError(f"--cuda_cmd {program}", "is no program", mend)
    if given.get("num_nodes", "1") == "1":
        return
    if not program:
        where = f"--num_nodes {given['num_nodes']}"
        raise InputError(where, "what starts it there?", "give --cuda_cmd")
    if re.search(r"(run|ssh)\.pl$", program):
        mend = "give slurm.pl, or --num_nodes 1"
        raise InputError(f"--cuda_cmd {program}", "starts on one machine", mend)


def check_teacher(given: Mapping[str, str]) -> None:
    """Refuse a trained model that is half named, or named twice."""
    own = [bool(given.get(f"teacher_{part}")) for part in ("config", "model")]
    if any(own) and not all(own):
        raise InputError("--teacher_config and --teacher_model", "belong together")
    tag = given.get("teacher_tag", "")
    if tag.endswith(".zip") and "://" not in tag and not Path(tag).is_file():
        raise InputError(f"--teacher_tag {tag}", "does not exist")
    if tag and any(own):
        raise InputError(f"--teacher_tag {tag}", "there is --teacher_config, too")


def check_precisions(given: Mapping[str, str]) -> None:
    """Refuse number formats that there are not, or not there."""
    if not given.get("precisions", "").split():
        return
    for name in several(given, "precisions"):
        if name not in PRECISIONS[1:]:
            known = "int8 (CPUs) or bf16 (GPUs); fp32 is always there"
            raise InputError(f"--precisions {name}", known)
        if name == "int8" and given["gpu_inference"] == "true":
            mend = "leave out --gpu_inference"
            raise InputError("--precisions int8", "is for CPUs", mend)


def main() -> None:
    """Print the rungs of a command line of ``--name=value``."""
    pairs = (word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
    for rung in check(dict(pairs)):
        print(rung.method, rung.pruned, rung.compact)


if __name__ == "__main__":
    run_main(main)
