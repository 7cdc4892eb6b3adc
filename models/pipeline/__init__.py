"""Pipeline parallelism (DeepSeek-V3 3.2.1): schedules as data, what they cost, and how they are run.

schedules.py       per rank, which microbatch passes which stage in which order: GPipe to DualPipe
simulate.py        their times, bubbles and activations, for given costs of a chunk
measure.py         those costs on this device
chosen.py          the executor that a config asks for
rules.py           what no pipeline can be
split.py           which layers a stage holds
stages.py          a stage's work on a microbatch: F, B, I and W
inprocess.py       the executor of all ranks in one process
parts.py           which parts of the model a rank holds
ranks.py           the executor of one rank among several processes
torch_runtime.py   the same on torch's own runtime, where it knows the schedule
"""
