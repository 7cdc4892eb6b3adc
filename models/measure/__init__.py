"""What is measured on a trained model.

evaluation.py   loss, load of the experts, drafts
context.py      its loss by how much stands before a token, and what it finds again
drift.py        how far a policy has come from where it began
uniform.py      the imbalance that uniform routing would show
"""
