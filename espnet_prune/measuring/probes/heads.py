"""Linear heads on frozen features, as SUPERB's for classes and for phones.

A head is a softmax-weighted sum of the layers and two linear layers, with the mean over
time between them for classes, and CTC behind them for characters (Yang et al. 2021,
arXiv 2105.01051). All but the weights of the layers is linear, so that the mean over
time can be taken first, and cached.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEPS, HIDDEN, RATE_OF_HEAD, DECAY = 400, 256, 3e-3, 1e-4
EPOCHS, BATCH = 15, 16  # of CTC
MAX_NORM = 1.0  # of CTC's gradient


class Head(nn.Module):
    """A probe's head.

    Args:
        layers, channels: of the features.
        classes: to tell apart.
    """

    def __init__(self, layers: int, channels: int, classes: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.first = nn.Linear(channels, HIDDEN)
        self.last = nn.Linear(HIDDEN, classes)

    def embed(self, x: Tensor) -> Tensor:
        """Embed (..., layer, channel) as (..., 256), by which speakers are compared."""
        return self.first((x * self.weights.softmax(0)[:, None]).sum(-2))

    def forward(self, x: Tensor) -> Tensor:
        """Score the classes: (..., layer, channel) -> (..., class)."""
        return self.last(self.embed(x))

    def shares(self) -> list[float]:
        """Return the weight of each layer."""
        return self.weights.detach().softmax(0).tolist()


def train_classes(x: Tensor, y: Tensor, classes: int, seed: int) -> Head:
    """Train a head for classes, on all utterances at once.

    Args:
        x: (utterance, layer, channel), standardized.
        y: (utterance,) class of each.
        classes: number of them.
        seed: of the start.
    """
    torch.manual_seed(seed)
    head = Head(*x.shape[1:], classes)
    optimizer, schedule = _optimizer(head, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(x), y).backward()
        optimizer.step()
        schedule.step()
    return head


def train_characters(
    x: Sequence[Tensor], y: Sequence[Tensor], classes: int, seed: int
) -> Head:
    """Train a head for characters, by CTC.

    Args:
        x: (time, layer, channel) of each utterance, standardized.
        y: (character,) of each utterance, from 1 on; 0 is the blank.
        classes: number of characters, the blank among them.
        seed: of the start, and of the order.
    """
    torch.manual_seed(seed)
    head = Head(*x[0].shape[1:], classes)
    # From other starts, or without a bound on the gradient, heads of some seeds stay
    # where all is blank, by chance.
    nn.init.zeros_(head.last.weight)
    nn.init.zeros_(head.last.bias)
    batches = -(-len(x) // BATCH)
    optimizer, schedule = _optimizer(head, EPOCHS * batches)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x)).tolist()
        for i in range(0, len(order), BATCH):
            chosen = order[i : i + BATCH]
            lengths = torch.tensor([len(x[k]) for k in chosen])
            logits = head(torch.cat([x[k] for k in chosen]).float())
            padded = nn.utils.rnn.pad_sequence(logits.split(lengths.tolist()))
            loss = nn.functional.ctc_loss(
                padded.log_softmax(-1),
                torch.cat([y[k] for k in chosen]),
                lengths,
                torch.tensor([len(y[k]) for k in chosen]),
                zero_infinity=True,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM)
            optimizer.step()
            schedule.step()
    return head


def _optimizer(head: Head, steps: int) -> tuple[torch.optim.Optimizer, object]:
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=RATE_OF_HEAD, weight_decay=DECAY
    )
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
