"""The metrics of a model, one file each: arrays in, numbers out."""
