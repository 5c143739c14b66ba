"""Search by image: an index of embeddings, and what is known of each image."""
