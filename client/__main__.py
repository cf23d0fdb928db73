"""Entry point of `flower-client` and `python -m client`; Ctrl-C during an import ends it without a traceback."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run `flower-client`; exit with 130 on Ctrl-C."""
    try:
        from .cli import main as command  # imported here, inside the guard against Ctrl-C

        command()
    except KeyboardInterrupt:  # before the command installed its own handler
        sys.exit(130)


if __name__ == "__main__":
    main()
