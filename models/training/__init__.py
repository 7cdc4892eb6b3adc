"""One optimizer step of a model, on one device or several.

batch.py      what is learned from at once
loss.py       cross entropy over the targets that count
executor.py   the forward and backward passes of a step; pipelines (models/pipeline/) are other executors
optim.py      AdamW and the schedules of its rate
parallel.py   several processes that share each batch
compiled.py   blocks through torch.compile
module.py     the LightningModule: the only file that knows Lightning
"""
