import errno

import pytest

from espnet_prune.base.errors import InputError, run_main


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (InputError("a.yaml", "is bad", "mend"), 2, "error: a.yaml: is bad -> mend"),
        (KeyboardInterrupt(), 130, "stopped"),
        (
            OSError(errno.ENOSPC, "No space left on device", "exp/x"), 2,
            "error: exp/x: No space left on device -> make room, and start the same "
            "command again: what is finished is kept",
        ),
    ],
)  # fmt: skip
def test_what_a_user_causes_ends_in_one_line(raised, status, told, capsys):
    def main():
        raise raised

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == told + "\n"


def test_defects_keep_their_traceback():
    with pytest.raises(FileNotFoundError):
        run_main(lambda: open("not/there"))
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 // 0)
