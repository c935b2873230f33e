"""The emoji data set: `python -m training.data emoji`, in build.py."""
