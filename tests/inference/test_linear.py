import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_prune.serving.fast.linear import Linear, PackedLinear, bucket
from espnet_prune.serving.fast.precision import packs


@given(st.integers(1, 100_000))
def test_buckets_hold_their_rows_and_little_more(rows):
    assert rows <= bucket(rows) < rows + max(32, rows / 16)
    assert bucket(bucket(rows)) == bucket(rows)


def test_utterances_of_all_lengths_share_a_few_sizes():
    # 1 to 30 s of audio, 25 frames a second.
    assert len({bucket(rows) for rows in range(25, 751)}) <= 24


@pytest.mark.parametrize("rows", [(1,), (3, 7), (1, 32), (2, 33), (1, 600)])
def test_rows_that_fill_a_bucket_change_nothing(rows):
    if not packs(torch.bfloat16, torch.device("cpu")):
        pytest.skip("this CPU has no bf16")
    weight, bias = torch.randn(24, 16), torch.randn(24)
    x = torch.randn(*rows, 16).bfloat16()
    plain = Linear(weight, bias, torch.bfloat16)(x)
    packed = PackedLinear(weight, bias)(x)
    assert packed.shape == plain.shape == (*rows, 24)
    torch.testing.assert_close(packed.float(), plain.float(), rtol=2e-2, atol=2e-2)
