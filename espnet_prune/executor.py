"""Where stages that split their data run the parts: here, or on a Slurm cluster."""

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from espnet_prune.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

KINDS = ("local", "slurm")
# Parameters that submitit knows for every cluster; the others are Slurm's own.
GENERIC = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node")
RULE = "-" * 22
_LOG_SECONDS = 10.0


@dataclass(frozen=True)
class Executor:
    """How parts of a stage are run.

    Args:
        kind: ``local`` (processes of this machine) or ``slurm`` (jobs of an array).
        nj: how many at once.
        options: of the jobs, as :mod:`submitit` names them.
    """

    kind: str = "local"
    nj: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return self.kind == "local"

    def submit(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        logs: Path,
        what: str,
    ) -> Iterator[Result]:
        """Yield ``function(item)`` in the order of ``items``, from jobs of an array.

        Args:
            function: a top-level function; it and its results can be pickled.
            logs: where the jobs write, on a file system that all machines share.
            what: names the work in the progress lines.

        Raises:
            InputError: jobs failed; names the log of the first, after all have ended.
        """
        import submitit  # takes a second

        submitter = submitit.AutoExecutor(logs / "%j", cluster=self.kind)
        own = {k if k in GENERIC else f"slurm_{k}": v for k, v in self.options.items()}
        own = {"name": what.split()[0], "slurm_array_parallelism": self.nj} | own
        submitter.update_parameters(**own)
        jobs = submitter.map_array(function, items)
        logging.info(f"{what}: {len(jobs)} jobs, the first is {jobs[0].job_id}")
        told = time.monotonic()
        while not all(job.done() for job in jobs):
            time.sleep(0.2)
            if time.monotonic() - told > _LOG_SECONDS:
                told = time.monotonic()
                done = sum(job.done() for job in jobs)
                logging.info(f"{what}: {done} of {len(jobs)} jobs have ended")
        for job in jobs:
            error = job.exception()
            if error is not None:
                # submitit puts the traceback between two rules.
                *_, trace = str(error).split(RULE)[:2]
                last = trace.strip().splitlines()[-1]
                mend = "mend it and run the stage again: what is done is not redone"
                raise InputError(job.paths.stderr, f"this job failed: {last}", mend)
        for job in jobs:
            yield job.result()


def add_arguments(parser: argparse.ArgumentParser, nj: int = 2) -> None:
    """The options that a stage which splits its data has."""
    parser.add_argument("--nj", type=int, default=nj, help="parts at once")
    parser.add_argument("--executor", choices=KINDS, default="local")
    parser.add_argument(
        "--executor_args", default="", metavar="KEY=VALUE,...",
        help="of Slurm jobs, as partition=cpu,timeout_min=60,mem_gb=4",
    )  # fmt: skip


def from_arguments(args: argparse.Namespace) -> Executor:
    """The executor that was asked for.

    Raises:
        InputError: an option that is no ``KEY=VALUE``.
    """
    options: dict[str, Any] = {}
    for text in filter(None, args.executor_args.split(",")):
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--executor_args {text}", "is no KEY=VALUE")
        options[name] = int(value) if value.isdigit() else value
    return Executor(args.executor, max(1, args.nj), options)
