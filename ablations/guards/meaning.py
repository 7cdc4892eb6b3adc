"""What it means that an arm has passed a guard, in a line. Needs no torch: results show it."""

MEANINGS = {
    "isolation": "differs from the baseline in declared keys alone",
    "budget": "what is declared as matched is equal",
    "yardstick": "is scored as the baseline is: on the same text, tokens and items",
    "separation": "held-out text shares few long windows with the training part",
    "initialisation": "every parameter starts as it says, from a seed of its own",
    "size": "the built model's parameters and cache are those of the cost model",
    "causality": "no logit depends on later tokens or on other rows, in evaluation and as trained",
    "scoring": "losses are plain cross entropies of the model's own logits and the next token",
    "derivative": "gradients are the derivative of the reported losses",
    "load": "every assignment is counted, and biases move once a step, against the whole batch's load",
    "decoding": "decoding token by token gives the logits of one forward pass",
    "evaluation": "evaluation is free of the training's rounding and of balancing's biases",
    "schedule": "a pipeline's gradients are those of plain microbatching",
    "ranks": "a pipeline on ranks takes the same first clipped step as one process",
    "start": "the first loss is that of a guess, and gradients reach every parameter",
    "determinism": "the same steps give the same bits",
    "distinct": "its trials end in numbers of their own: the toggle did something",
    "seeds": "no seed of the search is one of the confirmation's",
}
"""By guard, in the order in which they are shown."""
WAIVABLE = ("derivative", "load", "decoding", "start")
"""Those that a sweep's file may do without, with its reason: a straight-through estimator has gradients that are no
derivative, a first draft no cache, a frozen part no gradient. What decides whether arms compare is not among them."""
