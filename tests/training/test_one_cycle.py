"""A dense training whose rate falls to nothing within its epochs."""

import pytest
import torch

from espnet_prune.training.one_cycle import completed
from espnet_prune.training.task import DenseASRTask


@pytest.fixture
def options(tmp_path):
    """Options of a training on ten utterances, four in a batch, two batches a step."""
    shapes = tmp_path / "shapes"
    shapes.write_text("".join(f"u{i} 100\n" for i in range(10)))
    given = f"--output_dir {tmp_path} --train_shape_file {shapes} --batch_type unsorted"
    given += " --batch_size 4 --accum_grad 2 --max_epoch 6 --optim_conf lr=0.01"

    def parse(more=""):
        parser = DenseASRTask.get_parser()
        return parser.parse_args(f"{given} --scheduler onecyclelr {more}".split())

    return parse


def test_rate_falls_to_nothing_at_the_last_step(options):
    conf = completed(options("--scheduler_conf pct_start=0.5"))
    assert conf["total_steps"] == 6 and conf["pct_start"] == 0.5
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, **conf)
    rates = [scheduler.get_last_lr()[0]]
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        rates += scheduler.get_last_lr()
    assert max(rates) == pytest.approx(0.01) and rates[-1] < 1e-6


def test_what_is_given_stays(options):
    given = options("--scheduler_conf total_steps=50 --scheduler_conf max_lr=0.1")
    assert completed(given) == {
        "total_steps": 50, "max_lr": 0.1, "cycle_momentum": False
    }  # fmt: skip
    other = options("--scheduler warmuplr --scheduler_conf warmup_steps=3")
    assert completed(other) == {"warmup_steps": 3}
    assert completed(options("--collect_stats true"))["total_steps"] == 1
