"""Average fine-tunings of one model as far as it helps: a greedy soup of weights.

Wortsman et al. 2022 (arXiv 2203.05482), recipe 1: an ingredient after the other, the
best one first, is taken in, and stays unless the average is worse with it.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def choose(
    alone: Sequence[float], together: Callable[[list[int]], float]
) -> tuple[list[int], float]:
    """Choose what goes into the soup.

    Args:
        alone: error of each ingredient by itself.
        together: gives the error of the average of ingredients, by their numbers.

    Returns:
        numbers of the ingredients, the best one first, and the error of their average.
    """
    best, *others = sorted(range(len(alone)), key=lambda number: alone[number])
    chosen, error = [best], alone[best]
    for other in others:
        if (tried := together([*chosen, other])) <= error:
            chosen, error = [*chosen, other], tried
    return chosen, error


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of one architecture, name by name.

    Args:
        states: state dicts. Of tensors of whole numbers, as the count of batches in a
            norm, the first one's are taken.
    """
    first, *_ = states
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }
