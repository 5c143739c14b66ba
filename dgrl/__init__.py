"""Cross-resolution person re-identification by deep group-aware representation learning (DGRL)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgrl.embedders.embedder import Embedder

__all__ = ["Embedder"]


def __getattr__(name: str) -> Any:
    """``from dgrl import Embedder``, imported when asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".embedders.embedder", __name__), name)
