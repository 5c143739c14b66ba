"""Training on HR/SR pairs (paper section IV-C)."""
