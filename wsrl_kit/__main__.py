"""Where the commands begin: Ctrl-C while they import is one line, too."""

import sys


def main() -> int:
    """Runs the command line; see `wsrl_kit.cli`."""
    try:
        from wsrl_kit.cli import main as command

        return command()
    except KeyboardInterrupt:
        print("wsrl-kit: stopped by SIGINT", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
