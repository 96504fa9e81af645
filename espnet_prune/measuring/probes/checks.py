"""Check which labels of a training and a test set go together, by kind of probe.

All raise InputError, which names the directory.
"""

from espnet_prune.base.errors import InputError
from espnet_prune.measuring.probes.features import Labelled


def classes_of(train: Labelled) -> dict[str, int]:
    """Number the labels of a training set.

    Raises:
        InputError: there is one only.
    """
    classes = {label: i for i, label in enumerate(sorted(set(train.labels)))}
    if len(classes) < 2:
        raise InputError(train.folder, "has one label", "give several to tell apart")
    return classes


def check_classes(train: Labelled, test: Labelled) -> None:
    """Refuse labels that no training set has."""
    if unknown := set(test.labels) - classes_of(train).keys():
        what = f"label {min(unknown)!r} is in no training set"
        raise InputError(test.folder, what, "give sets of the same labels")


def check_speakers(train: Labelled, test: Labelled) -> None:
    """Refuse speakers that are heard before, or of whom there are no pairs."""
    if heard := classes_of(train).keys() & set(test.labels):
        what = f"speaker {min(heard)!r} is in the training set, too"
        raise InputError(test.folder, what, "give other speakers")
    if len(set(test.labels)) < 2:
        raise InputError(test.folder, "holds one speaker", "give several")
    if len(set(test.labels)) == len(test.labels):
        raise InputError(test.folder, "holds no speaker twice", "give pairs")


def check_queries(train: Labelled, test: Labelled) -> None:
    """Refuse words of which there is one each."""
    for data in (train, test):
        if len(set(data.labels)) == len(data.labels):
            mend = "give single words, each several times"
            raise InputError(data.folder, "holds no word twice", mend)


def check_spelling(train: Labelled, test: Labelled) -> None:
    """Refuse characters that no training set has: they cannot be spelled."""
    if unknown := set("".join(test.labels)) - set("".join(train.labels)):
        what = f"character {min(unknown)!r} is in no training set"
        raise InputError(test.folder, what, "give sets of the same characters")
