"""What training.evaluate needs around the metrics: options, checks, models and images, processes, results, plots."""
