"""Cross-resolution person re-identification by deep group-aware representation learning (DGRL)."""
