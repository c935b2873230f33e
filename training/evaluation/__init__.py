"""What training.evaluate needs around the metrics: options, checks, models and pictures, processes, results, plots."""
