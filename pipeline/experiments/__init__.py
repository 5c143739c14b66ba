"""Ablations and tables: what is no stage."""
