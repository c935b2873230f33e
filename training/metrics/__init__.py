"""What is measured of a model: features, Frechet distance, precision and recall. Each file holds one."""
