"""The network of a run: built from a config to fit the data, or taken from a pipeline and fitted to the data."""
