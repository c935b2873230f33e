"""The network of a run: new, from a config, or taken from a pipeline; either way it is made to fit the data."""
