"""Kaldi's tables: UTF-8 lines of ``id value``, sorted as in the C locale."""

import unicodedata
from collections.abc import Mapping
from pathlib import Path

from espnet_prune.base.errors import InputError


def read_table(
    path: str | Path, mend: str = "check its path", forgive: bool = False
) -> dict[str, str]:
    """Read a table of lines ``id value``; the value may be empty or hold spaces.

    Args:
        path: of the table.
        mend: what the user can do where it is missing.
        forgive: whether control characters are left out, not refused: a model may write
            such, if they are in its token list.

    Raises:
        InputError: a missing or empty file, a line that is blank, repeats an id,
            is not UTF-8 or holds control characters.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(path, f"cannot be read ({e.strerror})", mend) from None
    table: dict[str, str] = {}
    # Only "\n" ends a line: Unicode's other line ends are legal inside a transcript.
    for number, raw in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        where = f"{path}:{number}"
        parts = _decode(raw, where, forgive).split(maxsplit=1)
        if not parts:
            if not data.strip():
                raise InputError(path, "is empty", "every table needs a line")
            raise InputError(where, "is a blank line", "remove it")
        key = parts[0]
        if key in table:
            raise InputError(
                where, f"repeats the id {key!r}", "give every line an id of its own"
            )
        table[key] = parts[1].strip() if len(parts) == 2 else ""
    return table


def _decode(raw: bytes, where: str, forgive: bool) -> str:
    """Decode one line, or raise an error that names what cannot be in a table."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(
            where, "is not UTF-8", "convert the file, for example with iconv"
        ) from None
    if line.endswith("\r") and not forgive:
        raise InputError(
            where, "has a Windows line end", "convert the file with dos2unix"
        )
    refused = [
        character
        for character in line
        if character == "\ufeff"
        or (character != "\t" and unicodedata.category(character) == "Cc")
    ]
    if refused and not forgive:
        what = f"holds the character U+{ord(refused[0]):04X}"
        raise InputError(where, what, "remove it")
    return line.translate(dict.fromkeys(map(ord, refused)))


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write ``id value`` lines in the order of the C locale, as Kaldi wants them."""
    # Code point order is the byte order of UTF-8, which is the C locale's.
    lines = [f"{key} {table[key]}".rstrip() + "\n" for key in sorted(table)]
    Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")
