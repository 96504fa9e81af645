"""What ESPnet's import is spared is spared of two of its modules alone."""

import pytest
import typeguard
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask
from espnet2.train.preprocessor import CommonPreprocessor
from typeguard import TypeCheckError

from espnet_prune.base import quiet


def test_arguments_of_other_modules_are_checked_as_typeguard_does():
    assert typeguard.typechecked is not quiet._typechecked  # it is put back

    @quiet._typechecked
    def half(number: int) -> float:
        return number / 2

    @quiet._typechecked()
    def count(numbers: list[int]) -> int:
        return len(numbers)

    assert half(3) == 1.5 and count([1, 2]) == 2
    with pytest.raises(TypeCheckError):
        half("3")
    with pytest.raises(TypeCheckError):
        count(2)


def test_two_modules_alone_go_unchecked():
    checked = [
        "check_argument_types_internal" in function.__code__.co_names
        for function in (AbsTask.main, CommonPreprocessor.__init__, ASRTask.build_model)
    ]
    assert checked == [False, False, True]
