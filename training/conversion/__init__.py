"""Published checkpoints in the names and shapes of this project: what flags mean, and where each weight goes."""
