"""What a stage says, on standard error."""

import logging

from rich.console import Console
from rich.logging import RichHandler


def set_up_logs() -> None:
    """Show the messages of this process: plain lines in a pipe, colours on a terminal."""
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
