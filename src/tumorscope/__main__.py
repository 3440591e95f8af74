"""The `tumorscope` command, also as `python -m tumorscope`."""

import sys


def main() -> None:
    """Run the command; Ctrl-C while its modules are still loaded is a line too, and no traceback."""
    try:
        from tumorscope.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("tumorscope: Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
