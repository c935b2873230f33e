"""Speed and quality against peers, one command each; every table comes from one run on the machine that prints it.

python -m benchmarks.sampling   # seconds for a batch of images: the app's path and the stock DDIM loop
python -m benchmarks.training   # images per second: our trainer and the loop of diffusers' train_unconditional.py
python -m benchmarks.quality    # what each of the two learns in the same wall time
"""
