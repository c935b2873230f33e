"""Converting published checkpoints: what their flags mean, and where each of their weights goes."""
