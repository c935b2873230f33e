"""Training: one loop, many objectives; data, metrics and publishing around it."""
