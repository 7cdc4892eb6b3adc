"""What a model learns from after text (DeepSeek-V3 5): rewards of its own answers, and another model's distribution.

grpo.py      the loss of answers and what they earned
policy.py    the executor that draws answers, has them judged and learns from them
distil.py    the executor that learns from a teacher's distribution
"""
