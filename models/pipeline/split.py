"""Which layers a stage holds: contiguous pieces of the model, of costs as equal as they can be."""

import itertools

from models.base.typed import ConfigError
from models.config import ModelConfig
from models.cost import module_products, parts
from models.kinds import attention_of


def layer_costs(config: ModelConfig) -> list[int]:
    """Weights that a token is multiplied with in each layer; a chunk's time is proportional to them, the attention's
    scores apart."""
    m, d = config.moe, config.d_model
    expert = 3 * d * m.moe_intermediate_size
    moe = d * m.n_routed_experts + (m.top_k + m.n_shared_experts) * expert
    attention, dense = attention_of(config).params, 3 * d * config.intermediate_size
    return [attention + (dense if layer < config.dense_layers else moe) for layer in range(config.n_layers)]


def tail_cost(config: ModelConfig) -> int:
    """The same of what only the last stage has: head and MTP modules, each of which uses the head again. The embedding,
    on the first stage, is a lookup: it multiplies nothing."""
    head = parts(config)["head"]
    return head + (config.mtp.depth * (module_products(config) + head) if config.mtp.depth else 0)


def split(config: ModelConfig, stages: int) -> list[range]:
    """The layers of each stage, at least one, such that the costliest stage costs as little as possible; among such
    splits the one whose earlier stages hold more. Raises ConfigError for more stages than layers."""
    if stages > config.n_layers:
        raise ConfigError(
            f"model.pipeline.stages={stages}: more than model.n_layers={config.n_layers}, and every stage needs a layer"
        )
    costs = layer_costs(config)
    costs[-1] += tail_cost(config)
    before = [0, *itertools.accumulate(costs)]
    # best[s][n]: the least possible maximum over s stages that hold the first n layers, and where the last one begins
    best = [{0: (0, 0)}]
    for s in range(1, stages + 1):
        row = {}
        for n in range(s, config.n_layers + 1):
            ways = [(max(best[-1][k][0], before[n] - before[k]), -k) for k in best[-1] if k < n]
            if ways:
                least, start = min(ways)
                row[n] = (least, -start)
        best.append(row)
    bounds = [config.n_layers]
    for s in range(stages, 0, -1):
        bounds.append(best[s][bounds[-1]][1])
    return [range(a, b) for a, b in itertools.pairwise(reversed(bounds))]


def uses_embedding_again(config: ModelConfig) -> bool:
    """Chained MTP modules, on the last stage, embed tokens too."""
    return config.mtp.depth > 0 and config.mtp.chained
