"""Prune, export, fine-tune: the middle of a recipe, for each method and target.

    python -m espnet_prune.cli.ladder --family espnet --stages "12 13 14" ...

starts what a family does for that; :func:`espnet_prune.prune` climbs one rung with the
same code.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.cli.progress import add_launcher, launched, watch
from espnet_prune.config.ingredients import ingredients
from espnet_prune.config.methods import METHODS
from espnet_prune.config.rungs import PRUNED, Rung, make_rungs


@dataclass(frozen=True)
class Family:
    """The programs that do the steps for a kind of model.

    Args:
        recipe: what runs its stages.
        train: module of its trainings, pruning and fine-tuning.
        export: module of the export in between.
        first: stage of the pruning; the others follow.
        training: where the fine-tuning goes, beside or in the compact directory.
        weights: files of an export.
    """

    recipe: str
    train: str
    export: str
    first: int
    training: str
    weights: tuple[str, ...]


FAMILIES = {
    "espnet": Family(
        "./run.sh",
        "espnet_prune.cli.prune_train",
        "espnet_prune.cli.export",
        12,
        "{}/finetune",
        ("config.yaml", PRUNED),
    ),
    "ssl": Family(
        "./run.sh --family ssl",
        "espnet_prune.cli.ssl_train",
        "espnet_prune.cli.ssl_export",
        2,
        "{}_distil",
        ("config.json", "pruning.json"),
    ),
}

# How a step is done: its module, its options, and, of a training, its directory.
Do = Callable[[str, list[str], Path | None], None]


@dataclass(frozen=True)
class Ladder:
    """Rungs, and what their steps are given.

    Args:
        family: of the dense model.
        rungs: to climb.
        pruned, compact: directory of a rung's pruning run, and of its export.
        common: options of every training: dense model and data.
        prune, finetune: options of these trainings, ``--recipe`` among them.
        made: files that the stage before must have made.
        latency_table: where that of the dense model is, or goes.
        soup: number of fine-tunings of each rung, of which one model is made.
    """

    family: Family
    rungs: Sequence[Rung]
    pruned: Callable[[Rung], Path]
    compact: Callable[[Rung], Path]
    common: Sequence[str]
    prune: Sequence[str]
    finetune: Sequence[str]
    made: Sequence[Path] = ()
    latency_table: Path | None = None
    soup: int = 1

    def climb(
        self,
        do: Do,
        stages: Collection[int] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Do the steps of all rungs.

        Args:
            do: does a step.
            stages: numbers of the steps that are wanted; None: of all.
            say: is told of each before it begins.

        Raises:
            InputError: a file is missing that an earlier stage makes.
        """
        prune, export, finetune = steps = [self.family.first + i for i in range(3)]
        stages = steps if stages is None else stages
        done = set()
        for rung in self.rungs:
            pruned, compact = self.pruned(rung), self.compact(rung)
            if prune in stages and pruned not in done:
                done.add(pruned)
                what = f"prune {rung.target:g} of the {rung.kind} in {pruned}"
                say(f"stage {prune}: {what} ({rung.method})")
                self.need(prune - 1, *self.made)
                do(self.family.train, self.pruning(rung), pruned)
            if export in stages and rung.target:
                say(f"stage {export}: export the compact model to {compact}")
                self.need(prune, pruned / "config.yaml")
                options = ["--pruned", str(pruned), "--out", str(compact)]
                options += ["--round_to", str(rung.round_to), "--method", rung.method]
                do(self.family.export, options, None)
            if finetune in stages and (tuned := self.tuned(rung)):
                folder = Path(self.family.training.format(compact))
                what = "compact model" if rung.target else "sizes of one checkpoint"
                options = ["--compact" if rung.target else "--sizes", *map(str, tuned)]
                options += [*self.common, *self.finetune]
                runs = ingredients(folder, options, self.soup)
                for run in runs:
                    say(f"stage {finetune}: fine-tune the {what} in {run}")
                    for made in tuned:
                        self.need(export, *(made / n for n in self.family.weights))
                    self.need(prune - 1, *self.made)
                    do(self.family.train, runs[run], run)
                if self.soup > 1:
                    say(f"stage {finetune}: make one model of them in {compact}")
                    options = ["--compact", str(compact), "--runs", *map(str, runs)]
                    do("espnet_prune.cli.soup", options, None)

    def tuned(self, rung: Rung) -> list[Path]:
        """List the compact models that a rung's fine-tuning begins with, if it has one.

        Weights for all sizes are trained once, when the whole model comes.
        """
        if not rung.target:
            return [self.compact(size) for size in rung.before]
        return [] if METHODS[rung.method].prunes_as else [self.compact(rung)]

    def pruning(self, rung: Rung) -> list[str]:
        """Return the options of a rung's pruning."""
        method = METHODS[rung.method].prunes_as or rung.method
        options = ["--method", method, "--kind", rung.kind]
        options += ["--target", str(rung.target)]
        if self.latency_table is not None:
            options += ["--latency_table", str(self.latency_table)]
        if rung.previous is not None:
            previous = self.pruned(rung.previous)
            self.need(self.family.first, previous / "latest.pth")
            options += ["--previous", str(previous)]
        return [*options, *self.common, *self.prune]

    def need(self, stage: int, *files: Path) -> None:
        """Refuse to go on without files that a stage makes."""
        for file in files:
            if not file.exists():
                mend = f"run stage {stage} ({self.family.recipe} --stage {stage} ...)"
                raise InputError(file, "is missing", mend)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--stages", type=str.split, required=True)
    parser.add_argument("--elapsed", type=int, default=0, help="seconds of run.sh")
    parser.add_argument("--method", type=str.split, required=True)
    parser.add_argument("--targets", type=str.split, required=True)
    parser.add_argument("--target_kind", required=True)
    parser.add_argument("--round_to", type=int, default=1)
    parser.add_argument("--exp", required=True, help="begin of the directories' names")
    parser.add_argument(
        "--made", type=Path, nargs="*", default=[], help="by the stage before"
    )
    parser.add_argument("--latency_table", type=Path)
    parser.add_argument("--soup", type=int, default=1, help="fine-tunings of each")
    for phase in ("prune", "finetune"):
        parser.add_argument(f"--{phase}_config", required=True)
        parser.add_argument(f"--{phase}_args", type=str.split, default=[])
    add_launcher(parser)
    parser.add_argument("common", nargs="*", help="options of all trainings")
    return parser


def do_in_process(
    args: argparse.Namespace, module: str, options: list[str], folder: Path | None
) -> None:
    """Do a step in a process of its own; watch a training, perhaps on a cluster."""
    command = ["python3", "-m", module, *options]
    if folder is None:
        code = subprocess.run(command).returncode
        if code:  # it has said why, unless it was killed: then the shell says it
            sys.exit(code if code > 0 else 128 - code)
        return
    command += ["--output_dir", str(folder), "--ngpu", str(args.ngpu)]
    log = folder / "train.log"
    if args.cuda_cmd:
        command = launched(command, log, args)
    watch(command, log, launcher=bool(args.cuda_cmd))


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    begun = time.monotonic() - args.elapsed

    def say(text: str) -> None:
        minutes, seconds = divmod(round(time.monotonic() - begun), 60)
        print(f"[{minutes:02}:{seconds:02}] {text}", flush=True)

    targets = [float(target) for target in args.targets]
    ladder = Ladder(
        FAMILIES[args.family],
        make_rungs(args.method, targets, args.target_kind, args.round_to),
        lambda rung: Path(f"{args.exp}_pruned_{rung.pruned}"),
        lambda rung: Path(f"{args.exp}_compact_{rung.compact}"),
        args.common,
        ["--recipe", args.prune_config, *args.prune_args],
        ["--recipe", args.finetune_config, *args.finetune_args],
        args.made,
        args.latency_table,
        args.soup,
    )
    ladder.climb(partial(do_in_process, args), [*map(int, args.stages)], say)


if __name__ == "__main__":
    run_main(main)
