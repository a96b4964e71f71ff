"""The ``rsgi`` command."""

import sys

from rsgi import _rsgi


def main() -> int:
    """Run the command line; the result is the exit code."""
    return _rsgi.main(["rsgi", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
