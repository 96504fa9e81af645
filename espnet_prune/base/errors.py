"""The one error a user meets when an input is wrong."""

import errno
import logging
import sys
from collections.abc import Callable

FULL = (errno.ENOSPC, errno.EDQUOT)
MAKE_ROOM = "make room, and start the same command again: what is finished is kept"


class InputError(ValueError):
    """An input from outside is wrong: the error names the file or option, and the mend.

    Args:
        where: the file (with ``:line`` where it helps) or the option.
        what: what is wrong with it, in one sentence.
        mend: what the user can do about it, in one sentence.
    """

    def __init__(self, where: object, what: str, mend: str = ""):
        super().__init__(f"{where}: {what}" + (f" -> {mend}" if mend else ""))


class OptionError(ValueError):
    """An option is wrong: who knows where it was given makes an InputError of it.

    No other ValueError may become one: it is a defect, and keeps its traceback.
    """


def is_for_the_user(record: logging.LogRecord) -> bool:
    """Tell whether a log record is for the user: ESPnet's below a warning are not."""
    return record.levelno > logging.INFO or "espnet2" not in record.pathname


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line: an InputError becomes one line on stderr and exit 2.

    So do a full disk, and Ctrl-C, with the exit status that shells give it.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    for handler in logging.root.handlers:
        handler.addFilter(is_for_the_user)
    try:
        sys.exit(main() or 0)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:
        if e.errno not in FULL:
            raise
        where = e.filename or "the disk"
        print(f"error: {where}: {e.strerror} -> {MAKE_ROOM}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
