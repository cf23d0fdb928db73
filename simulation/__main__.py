"""`flower-simulate`, also as `python -m simulation`: Ctrl-C ends it without a traceback from the first import on."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit with 130 on Ctrl-C."""
    try:
        from memamba_core.io.process_setup import set_up_process

        set_up_process()  # before anything imports torch
        from .cli import main as command  # imported here, so that a Ctrl-C during the import is caught, too

        command()
    except KeyboardInterrupt:  # before the command handles Ctrl-C itself
        sys.exit(130)


if __name__ == "__main__":
    # `python -m` puts the current folder first on the path: a `server.py` there would hide the package of that name.
    if not sys.flags.safe_path and __file__ != f"{sys.path[0]}/simulation/__main__.py":
        del sys.path[0]
    main()
