"""Cut the masked parts out of a pruned self-supervised encoder."""

import logging

from espnet_prune.base.errors import run_main
from espnet_prune.base.files import write_text
from espnet_prune.cli.export import arguments


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.export.ssl import export_ssl
    from espnet_prune.families.ssl.audio import normalizes
    from espnet_prune.report.ssl_card import card

    summary = export_ssl(args.pruned, args.out, args.round_to)
    page = card(args.out.name, summary, normalizes(args.out))
    write_text(args.out / "README.md", page)
    gone = ", ".join(f"{gone:.1%} of the {k}" for k, gone in summary["removed"].items())
    logging.info(f"{args.out}: {gone} gone; {summary['params'] / 1e6:.2f} M left")


if __name__ == "__main__":
    run_main(main)
