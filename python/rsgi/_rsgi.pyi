"""The server itself, written in Rust."""

from collections.abc import Sequence

__version__: str

class HarakiriError(BaseException):
    """The request took longer than harakiri allows."""

def set_user_harakiri(seconds: float) -> None:
    """Stop the running request when it takes longer than ``seconds`` from now; 0 takes that back.

    For the thread that serves a request, during it: elsewhere a ``RuntimeError``.
    """

def main(argv: Sequence[str]) -> int:
    """Run the ``rsgi`` command with ``argv``, the program's name first, and return its exit code."""
