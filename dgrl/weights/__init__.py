"""Reading and writing networks."""
