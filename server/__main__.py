"""Entry point of `flower-server` and `python -m server`; Ctrl-C during the imports leaves no traceback."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    try:
        from memamba_core.io.process_setup import set_up_process

        set_up_process()  # before anything imports torch
        from .cli import main as command  # imported inside `try`: Ctrl-C may come during the import

        command()
    except KeyboardInterrupt:  # before the command installed its own handler
        sys.exit(130)


if __name__ == "__main__":
    # `python -m` puts the current folder first on the path: a `server.py` there would hide the package of that name.
    if not sys.flags.safe_path and __file__ != f"{sys.path[0]}/server/__main__.py":
        del sys.path[0]
    main()
