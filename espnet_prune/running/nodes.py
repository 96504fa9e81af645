"""Do on one machine what serves all of a multi-node training.

ESPnet's launcher starts the same command on every node. Checks, plans and measurements
are the first node's: two of them would race for the same files, and a latency table
measured twice would give the nodes different models.
"""

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from espnet2.train.distributed_utils import get_node_rank, get_num_nodes

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import write_text

Result = TypeVar("Result")
PATIENCE = 3600.0  # seconds; latency tables of large models take minutes
DONE, FAILED = "done", "failed"


class Node:
    """This process's place among those that ESPnet's launcher started.

    Args:
        options: of an ESPnet training, as its command line gives them.
        folder: the training's output directory, which all nodes see.

    Raises:
        InputError: several nodes without a file by which they find each other.
    """

    def __init__(self, options: Sequence[str], folder: Path):
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--dist_launcher")
        parser.add_argument("--dist_init_method", default="env://")
        parser.add_argument("--dist_rank", type=int)
        parser.add_argument("--dist_world_size", type=int)
        args, _ = parser.parse_known_args(options)
        nodes = get_num_nodes(args.dist_world_size, args.dist_launcher)
        self.rank = 0
        if nodes > 1:
            self.rank = get_node_rank(args.dist_rank, args.dist_launcher) or 0
            if not args.dist_init_method.startswith("file://"):
                raise InputError(
                    f"--dist_init_method {args.dist_init_method}",
                    "is no file, which several nodes need here",
                    "let espnet2.bin.launch start them, without --master_port",
                )
        # The launcher names that file anew for each training.
        name = Path(args.dist_init_method).name
        self.mark = folder / f".first_node_{name}" if nodes > 1 else None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def first(self, work: Callable[[], Result]) -> Result | None:
        """Do the work on the first node; the others wait until it is done.

        Raises:
            InputError: on the others, if it failed on the first.
        """
        if self.mark is None:
            return work()
        if self.is_first:
            outcome = FAILED
            try:
                result = work()
                outcome = DONE
            finally:
                write_text(self.mark, outcome)
            return result
        logging.info(f"node {self.rank} waits for the first one's checks and plans")
        begun = time.monotonic()
        while not self.mark.exists():
            time.sleep(0.2)
            if time.monotonic() - begun > PATIENCE:  # it was killed, or its node lost
                raise InputError(
                    self.mark, "the first node has not written it", "see its log"
                )
        if self.mark.read_text() == FAILED:
            raise InputError(self.mark, "the first node refused", "see its message")
        return None
