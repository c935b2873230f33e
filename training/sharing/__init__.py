"""What is shared of a model: the files that are uploaded to the Hub, its card, and the demo as a Space."""
