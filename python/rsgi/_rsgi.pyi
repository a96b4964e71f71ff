"""The server itself, written in Rust."""

from collections.abc import Sequence

__version__: str

def main(argv: Sequence[str]) -> int:
    """Run the ``rsgi`` command with ``argv``, the program's name first, and return its exit code."""
