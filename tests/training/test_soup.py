"""The greedy rule of a soup, and the average of weights."""

import pytest
import torch

from espnet_prune.training.soup import average, choose


def kitchen(errors):
    """Errors of each ingredient, those of mixtures by their numbers, and what was
    tried."""
    tried = []

    def together(numbers):
        tried.append(tuple(numbers))
        return errors[frozenset(numbers)]

    singles = sorted(next(iter(k)) for k in errors if len(k) == 1)
    return [errors[frozenset({n})] for n in singles], together, tried


@pytest.mark.parametrize(
    ("errors", "chosen", "error", "order"),
    [
        ({(0,): 0.3}, [0], 0.3, []),
        # The best one is first, and what makes it worse is left out.
        (
            {(0,): 0.3, (1,): 0.2, (2,): 0.25, (1, 2): 0.26, (0, 1): 0.1},
            [1, 0],
            0.1,
            [(1, 2), (1, 0)],
        ),
        # As good as before is good enough, also among equals, in their order.
        (
            {(0,): 0.2, (1,): 0.2, (2,): 0.2, (0, 1): 0.2, (0, 1, 2): 0.2},
            [0, 1, 2],
            0.2,
            [(0, 1), (0, 1, 2)],
        ),
        # The soup is what the next one must not spoil, not the best single one.
        (
            {(0,): 0.3, (1,): 0.4, (2,): 0.5, (0, 1): 0.1, (0, 1, 2): 0.2},
            [0, 1],
            0.1,
            [(0, 1), (0, 1, 2)],
        ),
    ],
    ids=["one", "bad one", "ties", "soup is the mark"],
)
def test_an_ingredient_stays_unless_the_soup_is_worse_with_it(
    errors, chosen, error, order
):
    errors = {frozenset(numbers): rate for numbers, rate in errors.items()}
    alone, together, tried = kitchen(errors)
    assert choose(alone, together) == (chosen, error)
    assert tried == order


def test_average_is_exact_and_counts_are_the_first_ones():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "half": torch.tensor([1.0]).half(), "n": 3},
        {"w": torch.tensor([2.0, 4.0]), "half": torch.tensor([2.0]).half(), "n": 9},
        {"w": torch.tensor([6.0, 0.0]), "half": torch.tensor([6.0]).half(), "n": 6},
    ]
    for state in states:
        state["n"] = torch.tensor(state["n"])
    mean = average(states)
    assert mean["w"].tolist() == [3.0, 2.0] and mean["half"].tolist() == [3.0]
    for name, value in states[0].items():
        assert mean[name].dtype == value.dtype
    assert mean["n"].item() == 3
    weights = torch.randn(1000)
    same = average([{"w": weights}] * 3)["w"]
    assert torch.equal(same, weights)  # to the bit, whatever their number
