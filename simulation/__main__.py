"""`flower-simulate`, also as `python -m simulation`: from the first import on, Ctrl-C ends it without a traceback."""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point."""
    try:
        from memamba_core.io.process_setup import set_up_process

        set_up_process()  # before anything imports torch
        from .cli import main as command  # here, so that it is not yet imported when Ctrl-C may come

        command()
    except KeyboardInterrupt:  # before the command had its own word on it
        sys.exit(130)


if __name__ == "__main__":
    # `python -m` puts the current folder first on the path: a `server.py` there would hide the package of that name.
    if not sys.flags.safe_path and __file__ != f"{sys.path[0]}/simulation/__main__.py":
        del sys.path[0]
    main()
