"""Write anew what the pages of the documentation have from the code.

    python -m espnet_prune.cli.pages

The list of what can be pruned is the registry's, and the tables of options are those of
the dataclasses, so that no page says anything else.
"""

import argparse
from pathlib import Path

from espnet_prune.base.errors import run_main
from espnet_prune.base.files import write_text
from espnet_prune.base.marks import renewed
from espnet_prune.config.sections import SECTIONS
from espnet_prune.families.registry import KINDS
from espnet_prune.report.option_tables import option_table


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, default="docs", help="the pages' folder")
    parser.add_argument("--readme", type=Path, default="README.md")
    return parser


def parts() -> dict[str, str]:
    """Make the parts, by name."""
    # These import torch and transformers.
    from espnet_prune.families.ssl.configs import CLASSES
    from espnet_prune.report.supported import codes, listed

    tables = {name: option_table(options) for name, options in SECTIONS.items()}
    names = {"encoders": codes(KINDS), "speech encoders": codes(CLASSES)}
    return tables | names | {"what can be pruned": listed()}


def main(argv: list[str] | None = None) -> None:
    args, made = get_parser().parse_args(argv), parts()
    for page in (args.readme, *sorted(args.docs.glob("*.md"))):
        old = page.read_text(encoding="utf-8")
        if (new := renewed(old, made)) != old:
            write_text(page, new)


if __name__ == "__main__":
    run_main(main)
