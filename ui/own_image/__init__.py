"""One image under a model: noised, predicted, inverted and judged at every t."""
