"""torchtitan's DeepSeek-V3 beside ours, where it is installed: with equal weights equal logits."""

import dataclasses

import pytest
import torch

pytest.importorskip("torchtitan", reason="torchtitan is not installed")

from benchmarks.titan import build, titans
from models.config import ModelConfig
from models.sizes import size
from models.transformer import Transformer, initialise

CONFIG = dataclasses.replace(size("tiny")[0], dtype="float32")


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize(
    ("config", "limit"), [(dataclasses.replace(CONFIG, first_k_dense=CONFIG.n_layers), 1e-5), (CONFIG, 5e-3)]
)
def test_equal_weights_give_equal_logits(config: ModelConfig, limit: float) -> None:
    """Experts' products are of BF16 there, whatever the weights are."""
    from torchtitan.models.deepseek_v3 import DeepSeekV3StateDictAdapter

    ours, peer = Transformer(config), build(config)
    initialise(ours, 0, config.std)
    published = {}
    for name, weight in ours.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(weight):
                gate, up = both.chunk(2)
                base = f"{name.removesuffix('gate_up_proj')}{expert}"
                published |= {f"{base}.gate_proj.weight": gate, f"{base}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            base = name.removesuffix("down_proj")
            published |= {f"{base}{expert}.down_proj.weight": down for expert, down in enumerate(weight)}
        else:
            published[name] = weight
    adapter = DeepSeekV3StateDictAdapter(peer.config, None)
    missing = peer.load_state_dict(adapter.from_hf(published), strict=False)
    assert not missing.unexpected_keys and not [
        k for k in missing.missing_keys if not k.endswith("tokens_per_expert_E")
    ]
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in ours.parameters())
    tokens = torch.randint(0, CONFIG.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, logits = peer(tokens), ours(tokens).logits
    assert logits.std() > 50 * limit
    torch.testing.assert_close(theirs, logits, atol=limit, rtol=0)


def test_a_step_learns() -> None:
    step = titans(CONFIG, "float32", "cpu")
    tokens = torch.randint(0, CONFIG.vocab_size, (2, 33), generator=torch.Generator().manual_seed(0))
    losses = [step(tokens) for _ in range(5)]
    assert losses[-1] < losses[0]
