"""Two processes, spawned by ESPnet's own main(), prune and distil together.

As on a machine with two GPUs, but for the device, and gloo in place of NCCL.
"""

import pytest
import torch

from espnet_prune.cli import ssl_export, ssl_train
from espnet_prune.training import origin
from espnet_prune.training.ssl_task import PruneSpeechTask
from tests.speech.training import train
from tests.training.test_spawn import SPAWNED, Watched, assert_same_weights


class Task(PruneSpeechTask):
    trainer = Watched

    @classmethod
    def main_worker(cls, args):
        args.ngpu = 0  # main() has spawned one process for each, and here are none
        super().main_worker(args)


@pytest.mark.slow
def test_spawned_processes_prune_and_distil_in_step(
    dense, crops, tmp_path, monkeypatch
):
    """Layers that a process skips (layerdrop) must not hold up the other one."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ssl_train, "PruneSpeechTask", Task)
    monkeypatch.setattr(origin, "refuse_missing_gpus", lambda asked: None)
    pruned, compact, distilled = (tmp_path / name for name in "pcd")
    train(dense, crops, pruned, "prune", "--max_epoch", 2, *SPAWNED)
    ssl_export.main(["--pruned", str(pruned), "--out", str(compact)])
    short = ("--compact", compact, "--max_epoch", 1)
    train(dense, crops, distilled, "distil", *short, *SPAWNED)
    for folder in (pruned, distilled):
        seen, updates, drawn = zip(
            *(torch.load(folder / f"did{rank}.pth") for rank in range(2)), strict=True
        )
        assert all(map(all, seen)) and updates[0] == updates[1]
        assert_same_weights(folder)
        if folder == pruned:  # each draws gates of its own
            values = {tuple(v.tolist()) for of_one in drawn for v in of_one}
            assert len(values) == 2 * len(drawn[0]) > 0
