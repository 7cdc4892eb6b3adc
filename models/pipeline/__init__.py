"""Pipeline parallelism (DeepSeek-V3 3.2.1): schedules as data, and what they cost.

schedules.py    per rank, which microbatch passes which stage in which order: GPipe to DualPipe
simulate.py     their times, bubbles and activations, for given costs of a chunk
"""
