"""One module per benchmark: an official archive, or a generator, in; image rows out."""
