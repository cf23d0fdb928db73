"""`flower-simulate`, also as `python -m simulation`: from the first import on, Ctrl-C ends it without a traceback."""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point."""
    try:
        from .cli import main as command  # here, so that it is not yet imported when Ctrl-C may come

        command()
    except KeyboardInterrupt:  # before the command had its own word on it
        sys.exit(130)


if __name__ == "__main__":
    main()
