"""Texts that begin alike, read together: their common beginning once, then each one's own rest, all in one row.

Letters as in layers.py, and N asked positions over all rows. A row is a tree of tokens in any order in which a token
comes after the one before it in its text. Each stands at its text's own position and sees its text's own past, so every
logit is the one that the text would have alone.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from models.attention import Places
from models.kinds import attention_of
from models.rope import rope_turns
from models.transformer import Transformer

LOGITS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 28}
"""Of one product with the head, by device: so much memory and no more, however many tokens there are. A GPU wants large
products; a core loses nothing by small ones, which fit its own cache."""


def tree_logits(
    model: Transformer,
    tokens_BT: Tensor,
    depths_BT: Tensor | None,
    sees_BTT: Tensor | None,
    rows_N: Tensor,
    columns_N: Tensor,
) -> Iterator[Tensor]:
    """(N, V): what follows the tokens at (rows_N, columns_N), in parts of some rows, one after the other. Only these go
    through the head, and no more of their logits than a part are there at a time.

    `depths_BT`: each token's position in its text. `sees_BTT`: whether a token (of the second dimension) sees another
    (of the third); each sees itself. Both None where every row is one text. Call it within `inferring(model)`.
    """
    if depths_BT is None or sees_BTT is None:
        places = model.places(tokens_BT)
    else:
        turns = rope_turns(depths_BT, attention_of(model.config).rope_dim, model.config.rope, model.dtype)
        mask = torch.zeros(sees_BTT.shape, dtype=model.dtype, device=sees_BTT.device)
        places = Places(turns, mask.masked_fill_(~sees_BTT, -math.inf))
    x = model.model.embed_tokens(tokens_BT, model.dtype)
    x, _ = model.through(range(model.config.n_layers), x, places)
    asked_ND = model.model.norm(x[rows_N, columns_N])
    rows = max(1, LOGITS_AT_ONCE[x.device.type] // model.config.vocab_size)
    for part in asked_ND.split(rows):
        yield model.lm_head(part)
