"""The laboratory: the samplers of pipelines/ on distributions of which everything is known."""
