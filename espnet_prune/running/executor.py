"""Run the parts of stages that split their data: here, or on a Slurm cluster."""

import argparse
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeVar

from espnet_prune.base.errors import InputError
from espnet_prune.config.run_options import EXECUTORS
from espnet_prune.running.parallel import ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")

# Parameters that submitit knows for every cluster; the others are Slurm's own.
GENERIC = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node")
# submitit's own limit would be five minutes.
DEFAULTS = {"timeout_min": 24 * 60}
RULE = "-" * 22
_LOG_SECONDS = 10.0


@dataclass(frozen=True)
class Executor:
    """The way in which parts of a stage are run.

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

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        logs: Path,
        what: str,
    ) -> Iterator[Result]:
        """Yield ``function(item)`` in the order of ``items``, wherever it is run.

        Args, raises: as for :meth:`submit`; a job takes several items, one after the
        other, for it takes long to start.
        """
        if self.is_local:
            return ordered_map(function, items, self.nj, what, chunk=1)
        jobs = split(items, self.nj) if items else []
        work = partial(in_turn, function)
        return chain.from_iterable(self.submit(work, jobs, logs, what) if jobs else [])

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
            InputError: jobs failed; names their logs, after all have ended.
        """
        jobs = self._jobs(function, items, logs, what)
        logging.info(f"{what}: {len(jobs)} jobs, the first is {jobs[0].job_id}")
        told = time.monotonic()
        try:
            while not all(job.done() for job in jobs):
                time.sleep(0.2)
                if time.monotonic() - told > _LOG_SECONDS:
                    told = time.monotonic()
                    done = sum(job.done() for job in jobs)
                    logging.info(f"{what}: {done} of {len(jobs)} jobs have ended")
        except BaseException:  # else they would write into what a later run makes
            for job in jobs:
                job.cancel(check=False)
            raise
        failed = [job for job in jobs if job.exception() is not None]
        if failed:
            # submitit puts the traceback between two rules.
            *_, trace = str(failed[0].exception()).split(RULE)[:2]
            last = trace.strip().splitlines()[-1]
            first, *others = [job.paths.stderr for job in failed]
            raise InputError(
                first,
                f"this job failed{failed_too(others)}: {last}",
                "mend it and run the stage again: what is done is not redone",
            )
        for job in jobs:
            yield job.result()

    def _jobs(
        self, function: Callable, items: Sequence, logs: Path, what: str
    ) -> list[Any]:
        """Submit the parts; what submitit or the cluster refuses becomes one line."""
        import submitit  # takes a second

        own = {k if k in GENERIC else f"slurm_{k}": v for k, v in self.options.items()}
        own = DEFAULTS | {"name": what.split()[0]} | own
        try:
            submitter = submitit.AutoExecutor(logs / "%j", cluster=self.kind)
            submitter.update_parameters(slurm_array_parallelism=self.nj, **own)
            return submitter.map_array(function, items)
        except Exception as e:  # of submitit, of sbatch
            lines = str(e).strip().splitlines() or [type(e).__name__]
            raise InputError(
                f"--executor {self.kind}",
                f"submits nothing: {lines[-1]}",
                "check --executor_args, and that sbatch works here",
            ) from e


def in_turn(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Do the items of one job, one after the other."""
    return [function(item) for item in items]


def split(items: Sequence[Item], parts: int) -> list[Sequence[Item]]:
    """Cut into at most that many consecutive parts of nearly equal size."""
    parts = min(parts, len(items))
    bounds = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(bounds)]


def failed_too(logs: Sequence[Path]) -> str:
    """Say which others failed, for the error of the first part that did."""
    return f" (as did {', '.join(map(str, logs))})" if logs else ""


def add_arguments(parser: argparse.ArgumentParser, nj: int = 2) -> None:
    """Add the options that a stage which splits its data has."""
    parser.add_argument("--nj", type=int, default=nj, help="parts at once")
    parser.add_argument("--executor", choices=EXECUTORS, default="local")
    parser.add_argument(
        "--executor_args", default="", metavar="KEY=VALUE,...",
        help="of Slurm jobs, as partition=cpu,timeout_min=60,mem_gb=4",
    )  # fmt: skip


def from_arguments(args: argparse.Namespace) -> Executor:
    """Make the executor that was asked for.

    Raises:
        InputError: an option that is no ``KEY=VALUE``.
    """
    options: dict[str, Any] = {}
    for text in filter(None, args.executor_args.split(",")):
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--executor_args {text}", "is no KEY=VALUE")
        options[name] = value
        for number in (float, int):
            with contextlib.suppress(ValueError):
                options[name] = number(value)
    return Executor(args.executor, max(1, args.nj), options)
