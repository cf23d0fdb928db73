"""Entry point of `flower-client` and `python -m client`; Ctrl-C during an import ends it without a traceback."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run `flower-client`; exit with 130 on Ctrl-C."""
    try:
        from memamba_core.io.process_setup import set_up_process

        set_up_process()  # before torch is imported
        from .cli import main as command  # imported here, inside the guard against Ctrl-C

        command()
    except KeyboardInterrupt:  # before the command installed its own handler
        sys.exit(130)


if __name__ == "__main__":
    # `python -m` puts the current folder first on the path: a `server.py` there would hide the package of that name.
    if not sys.flags.safe_path and __file__ != f"{sys.path[0]}/client/__main__.py":
        del sys.path[0]
    main()
