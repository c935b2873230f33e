"""What of a model's folder leaves for the Hub, its card, and the demo as a Space."""
