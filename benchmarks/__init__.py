"""Benchmarks of speed and quality against diffusers, one command each; each table is from one run on one machine.

python -m benchmarks.sampling   # seconds per batch of images: the app against the stock DDIM loop
python -m benchmarks.training   # images per second: our trainer against the loop of diffusers' train_unconditional.py
python -m benchmarks.quality    # the quality that each of the two trainers reaches in the same wall time
python -m benchmarks.convergence  # errors of the samplers against their steps, on ground truth
python -m benchmarks.kills      # training and evaluation killed at 27 moments, resumed, and compared to the last bit
"""
