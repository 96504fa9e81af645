"""A dense training whose rate falls to nothing within its epochs."""

import pytest
import torch
from espnet2.schedulers.tristage_lr import TristageLR

from espnet_prune.training.task import DenseASRTask
from espnet_prune.training.three_stages import completed


@pytest.fixture
def options(tmp_path):
    """Options of a training on ten utterances, four in a batch, two batches a step."""
    shapes = tmp_path / "shapes"
    shapes.write_text("".join(f"u{i} 100\n" for i in range(10)))
    given = f"--output_dir {tmp_path} --train_shape_file {shapes} --batch_type unsorted"
    given += " --batch_size 4 --accum_grad 2 --max_epoch 6 --optim_conf lr=0.01"

    def parse(more=""):
        parser = DenseASRTask.get_parser()
        return parser.parse_args(f"{given} --scheduler tristagelr {more}".split())

    return parse


def test_rate_falls_to_nothing_at_the_last_step(options):
    given = options("--scheduler_conf warmup_ratio=0.5 --scheduler_conf hold_ratio=0.0")
    conf = completed(given)
    assert conf == {"max_steps": 6, "warmup_ratio": 0.5, "hold_ratio": 0.0}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.01)
    scheduler = TristageLR(optimizer, **conf)
    rates = []
    for _ in range(6):
        optimizer.step()
        scheduler.step()
        rates += scheduler.get_last_lr()
    assert max(rates) == pytest.approx(0.01) and rates[-1] == pytest.approx(1e-4)


def test_what_is_given_stays(options):
    assert completed(options("--scheduler_conf max_steps=50")) == {"max_steps": 50}
    other = options("--scheduler warmuplr --scheduler_conf warmup_steps=3")
    assert completed(other) == {"warmup_steps": 3}
    assert completed(options("--collect_stats true")) == {"max_steps": 1}
