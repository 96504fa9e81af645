"""Let a dense training end: a rate that falls to nothing within its epochs.

ESPnet's ``tristagelr`` (warm-up, hold, decay, as in fairseq) must be told its number of
steps. What the data give is counted here, so that a config names the scheduler alone.
"""

import argparse
from typing import Any

from espnet2.samplers.build_batch_sampler import build_batch_sampler

THREE_STAGES = "tristagelr"


def completed(args: argparse.Namespace) -> dict[str, Any]:
    """Return ``scheduler_conf`` with the number of steps, where that is missing.

    Args:
        args: options of ESPnet's training.
    """
    conf = dict(args.scheduler_conf or {})
    if args.scheduler == THREE_STAGES and "max_steps" not in conf:
        conf["max_steps"] = 1 if args.collect_stats else steps(args)
    return conf


def steps(args: argparse.Namespace) -> int:
    """Count the steps of a training; its batches are made as ESPnet makes them."""
    sampler = build_batch_sampler(
        type=args.batch_type,
        shape_files=args.train_shape_file,
        fold_lengths=args.fold_length,
        batch_size=args.batch_size,
        batch_bins=args.batch_bins,
        sort_in_batch=args.sort_in_batch,
        sort_batch=args.sort_batch,
        drop_last=args.drop_last_iter,
        min_batch_size=max(args.min_batch_size, args.ngpu),
    )
    # What is left over at the end of an epoch makes no step.
    updates = (args.num_iters_per_epoch or len(sampler)) // args.accum_grad
    return max(1, updates * args.max_epoch)
