"""The audio that is there: seen by its contents, which are hashed once.

Beside what is made of files lies a note of their sizes, dates and SHA-256. Whoever runs
again reads only those whose size or dates are others, as after ``cp -p`` or ``touch``.
"""

import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from espnet_prune.base.files import fingerprint, is_made_of, unfinished, write_text
from espnet_prune.data.audio import file_of

NOTES = ".contents.json"  # in a directory: of the files that it was made of
_AT_ONCE = 4  # files that are hashed

Seen = list[int | str]  # size, dates of contents and of change (ns), SHA-256


@dataclass(frozen=True)
class Sources:
    """The files and commands that a ``wav.scp`` names.

    Attributes:
        held: file -> what was seen of it, those that cannot be read left out.
        commands: whether there are commands: what they will give cannot be seen.
    """

    held: dict[str, Seen]
    commands: bool

    @property
    def digests(self) -> list[tuple[str, str]]:
        """Return the files, each with its SHA-256, in order."""
        return [(file, str(seen[-1])) for file, seen in sorted(self.held.items())]

    def note(self, folder: Path) -> None:
        """Remember, in ``folder``, what was seen, beside what is noted there."""
        noted = _noted(folder)
        if noted != (now := noted | self.held):
            write_text(folder / NOTES, json.dumps(now))

    def are_those_of(self, made: Path, stamp: str) -> bool:
        """Tell whether a directory needs not be made again, and why in the log.

        Args:
            made: the directory.
            stamp: tells what it would be made of, :attr:`digests` among it.
        """
        if self.commands:
            logging.info(f"{made}: commands give audio: it is made anew")
            return False
        if not is_made_of(made, stamp):
            return False
        self.note(made)  # of files with other dates
        logging.info(f"{made}: made before, from the same files")
        return True


def look_at(values: Iterable[str], made: Path) -> Sources:
    """Look at the files that values of a ``wav.scp`` name.

    Args:
        values: paths, commands, or places in archives.
        made: the directory that is made of them, perhaps there or begun before: files
            of the sizes and dates that are noted in it are not read.
    """
    found = {file_of(value) for value in values}
    noted = _noted(made) | _noted(unfinished(made))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        files = sorted(found - {None})
        seen = pool.map(lambda file: _look(file, noted.get(file)), files)
    held = {file: one for file, one in zip(files, seen, strict=True) if one}
    return Sources(held, None in found)


def _look(file: str, noted: Seen | None) -> Seen | None:
    try:
        now = Path(file).stat()  # before it is read: what changes meanwhile is seen
        dates: Seen = [now.st_size, now.st_mtime_ns, now.st_ctime_ns]
        if noted and noted[:3] == dates:
            return noted
        return [*dates, fingerprint(file)]
    except OSError:
        return None  # who wants its samples tells


def _noted(folder: Path) -> dict[str, Seen]:
    file = folder / NOTES
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
