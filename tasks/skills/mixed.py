"""Text with skills among it: at a fixed share of the places a training sequence is one of a skill.

Skills' words are tokens behind the text's own: a model of V tokens whose skills have W words has a text tokenizer of
V - W, the very one of a text run with a vocabulary of V - W. Words laid over the text's last merges would keep V, but a
token would then mean two things, and what the text has of it would hang on the skills. END alone is one of both.

Places are evenly spread, so that all batches have the same share, give or take one; sequences of text, in between, are
those that the seed has without skills, in their order. Validation and test stay text alone. A skill's sequence is
learned whole, what stands behind its item included, as `data.source=skill` learns it.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base.typed import ConfigError, closest
from tasks.config import DRAWN, DataConfig
from tasks.drawn import END, Items
from tasks.skills.chosen import SKILLS
from tasks.skills.data import SkillData
from tasks.text.batches import PackedData

if TYPE_CHECKING:
    import torch


def words_of(config: DataConfig) -> int:
    """Tokens that `data.skills` take behind the text's; 0 without skills. Raises ConfigError for an unknown one."""
    return sum(_words(name) for name in config.skills)


def text_vocab(config: DataConfig, vocab_size: int) -> int:
    """What `data.skills` leave of a vocabulary to the text: all of it without skills."""
    return vocab_size - words_of(config)


def skill_places(first: int, count: int, share: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each of the training sequences `first` .. is one of a skill, and the skills' sequences before it."""
    exact = Fraction(str(share))
    before = np.arange(first, first + count + 1) * exact.numerator // exact.denominator
    return np.diff(before) > 0, before[:-1]


class MixedData(PackedData):
    """A packed text with the sequences of `data.skills` among those that are learned from."""

    def __init__(self, text: PackedData, config: DataConfig, vocab_size: int) -> None:
        super().__init__(text.folder, text.fingerprint, text.seq_len, text.batch_size, text.domain_per)
        own = {name: _alone(config, name) for name in config.skills}
        self.skills = {name: SkillData(one, _words(name) + 1) for name, one in own.items()}
        self.share, self.vocab_size = config.skills_share, vocab_size
        self.token_bytes = np.pad(self.token_bytes, (0, vocab_size - len(self.token_bytes)))
        self._first, place = dict[str, int](), text_vocab(config, vocab_size)
        for name in self.skills:
            self._first[name], place = place, place + _words(name)
        kept = {name: data.fingerprint for name, data in self.skills.items()}
        self.fingerprint = {**text.fingerprint, "skills": kept, "skills_share": self.share}

    @property
    def epoch(self) -> int:
        """Training sequences, skills' among them, that are read before one of the text is read again."""
        exact = Fraction(str(self.share))
        return int(super().epoch / (1 - exact))

    def train_sequences(self, seed: int, first: int, count: int) -> "torch.Tensor":
        """As without skills, but that some are skills' in turn; sequence i is a function of (seed, i)."""
        import torch

        of_skill, before = skill_places(first, count, self.share)
        texts, begin = int((~of_skill).sum()), first - int(before[0])
        out = torch.empty(count, self.seq_len + 1, dtype=torch.int64)
        if texts:
            out[torch.from_numpy(~of_skill)] = super().train_sequences(seed, begin, texts)
        names = list(self.skills)
        for place in np.flatnonzero(of_skill):
            number, which = divmod(int(before[place]), len(names))
            data = self.skills[names[which]]
            row = data.items("train", seed, number, 1).tokens_NT1
            out[place] = torch.from_numpy(self._placed(names[which], row)[0])
        return out

    def skill_items(self, name: str, split: str, tokens: int) -> Iterator[Items]:
        """Held-out sequences of a skill with about `tokens` targets in all, in this vocabulary."""
        for items in self.skills[name].evaluation_items(split, tokens):
            yield items._replace(tokens_NT1=self._placed(name, items.tokens_NT1))

    def _placed(self, name: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """A skill's words, of which END is the first, among the tokens of this vocabulary."""
        return np.where(tokens == END, END, tokens - 1 + self._first[name])


def check_skills(config: DataConfig, vocab_size: int, least: int) -> None:
    """Raise ConfigError for skills that cannot stand among this text; `least`: the tokens that the text needs."""
    if config.skills_share != DataConfig.skills_share and not config.skills:
        raise ConfigError(f"data.skills_share={config.skills_share}: is read with data.skills only; add data.skills")
    if not config.skills:
        return
    if config.source in DRAWN:
        raise ConfigError(
            f"data.skills={config.skills}: stand among text, and data.source={config.source} has none; leave them out"
        )
    for name, value, free in (("order", config.order, "mixed"), ("domain_per", config.domain_per, "sequence")):
        if value != free:
            raise ConfigError(
                f"data.{name}={value}: is of text alone; take data.{name}={free}, or leave out data.skills"
            )
    words = words_of(config)
    if vocab_size - words < least:
        raise ConfigError(
            f"model.vocab_size={vocab_size}: {words} of it are words of data.skills, and the text needs {least}; "
            f"raise it to {words + least} or more"
        )
    for name in config.skills:
        try:
            SKILLS[name]().check(config.seq_len)
        except ConfigError as error:
            raise ConfigError(
                f"data.skills={name}: does not fit into data.seq_len={config.seq_len} ({error})"
            ) from None


def _words(name: str) -> int:
    """Those of a skill but END."""
    if name not in SKILLS:
        raise ConfigError(f"data.skills={name}: expected some of {', '.join(SKILLS)}{closest(name, SKILLS)}")
    return len(SKILLS[name]().words) - 1


def _alone(config: DataConfig, name: str) -> DataConfig:
    """The skill by itself, as it is."""
    return DataConfig(source="skill", skill=name, seq_len=config.seq_len, batch_size=config.batch_size)
