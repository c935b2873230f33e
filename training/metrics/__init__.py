"""What is measured of a model, a file each, and what training.evaluate needs around it."""
