"""Let a dense training end: a rate that falls to nothing within its epochs.

ESPnet takes torch's ``OneCycleLR`` (Smith & Topin 2018, arXiv 1708.07120), which must
be told its number of steps, and stops a training that takes one more. What the data
give is counted here, so that a config names the scheduler alone.
"""

import argparse
from typing import Any

from espnet2.samplers.build_batch_sampler import build_batch_sampler

ONE_CYCLE = "onecyclelr"


def completed(args: argparse.Namespace) -> dict[str, Any]:
    """Return ``scheduler_conf`` with peak and number of steps, where they are missing.

    Args:
        args: options of ESPnet's training, on one device.
    """
    conf = dict(args.scheduler_conf or {})
    if args.scheduler != ONE_CYCLE:
        return conf
    if not conf.keys() & {"total_steps", "epochs"}:
        conf["total_steps"] = 1 if args.collect_stats else steps(args)
    return {"max_lr": (args.optim_conf or {}).get("lr"), "cycle_momentum": False} | conf


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
