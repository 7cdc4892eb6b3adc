"""What a dataset is called: `data.name`, as a preset, a dataset of the Hugging Face hub, or a folder that holds one."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from models.base.typed import ConfigError
from tasks.config import DataConfig


@dataclass(frozen=True)
class HubText:
    """Where the text of a dataset is."""

    repository: str
    subset: str | None = None
    text_field: str = "text"
    split: str = "train"
    heading: str | None = None
    """Where a document is many rows: what its first row looks like."""
    revision: str | None = None
    """A commit, or null for the newest when it is first asked for."""

    @property
    def folder(self) -> Path | None:
        """Where it is one of this machine."""
        return Path(self.repository) if os.path.isdir(self.repository) else None

    @property
    def label(self) -> str:
        """Repository and subset, without places of this machine."""
        name = self.folder.resolve().name if self.folder else self.repository
        return f"{name}:{self.subset}" if self.subset else name


PRESETS = {
    "fineweb_edu": HubText("HuggingFaceFW/fineweb-edu", "sample-10BT"),
    "wikitext": HubText("Salesforce/wikitext", "wikitext-103-raw-v1", heading=r" = [^=].*[^=] = \n?"),
    "tinystories": HubText("roneneldan/TinyStories"),
    "codeparrot": HubText("codeparrot/codeparrot-clean", text_field="content"),
}


def hub_text(config: DataConfig) -> HubText:
    """What `data.name` names: a preset, OWNER/SET[:SUBSET] or FOLDER[:SUBSET], and @REVISION where one is asked for."""
    if config.name is None:
        raise ConfigError(f"data.name=null: data.source=hf needs {', '.join(PRESETS)} or OWNER/SET[:SUBSET]")
    if config.name not in PRESETS and os.path.isdir(place := os.path.expanduser(config.name)):  # whatever it has in it
        return HubText(place, text_field=config.text_field)
    name, _, revision = config.name.partition("@")
    repository, _, subset = name.partition(":")
    if not repository:
        raise ConfigError(
            f"data.name={config.name}: names no dataset; write {', '.join(PRESETS)} or OWNER/SET[:SUBSET]"
        )
    is_folder = os.path.isdir(os.path.expanduser(repository))
    if is_folder and revision:
        raise ConfigError(f"data.name={config.name}: a folder of this machine has no revisions; leave @{revision} out")
    if repository.startswith(("/", "~", ".")) and not is_folder:
        raise ConfigError(
            f"data.name={config.name}: there is no such folder; name one that holds a dataset, {', '.join(PRESETS)} or "
            "OWNER/SET[:SUBSET]"
        )
    found = PRESETS.get(repository) or HubText(os.path.expanduser(repository))
    found = replace(found, subset=subset) if subset else found
    own_field = found.text_field if config.text_field == "text" else config.text_field
    return replace(found, text_field=own_field, revision=revision or None)
