"""Where Weights & Biases runs go: to a server or to a folder, as asked for, or as far down as something failed."""

import configparser
import contextlib
import importlib.util
import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from ablations.config.schema import Mode, TrackConfig
from ablations.files import read_json, write_json
from models.base.typed import ConfigError, build

Settled = Literal["offline", "online", "disabled"]
"""Where runs go, once `auto` is resolved."""
FALLBACK = ".fallback.json"
OWN_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Two names of W&B's own server, the newer first: a login under either is one."""
TRACK = "track.json"
"""In a run's folder: where its trials' runs went, so that what is told of them later goes there too."""


def resolve_mode(mode: Mode) -> Settled:
    """`auto`: online with a login, else offline; `disabled` where wandb is not installed."""
    if mode == "disabled" or importlib.util.find_spec("wandb") is None:
        return "disabled"
    if mode != "auto":
        return mode
    return _of_environment() or ("online" if api_key() else "offline")


OF_WANDB_MODE: dict[str, Settled] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""All that W&B knows; `run` and `dryrun` are its older words."""


def _of_environment() -> Settled | None:
    """Raises ConfigError for a word of which nobody can say whether it forbids to upload."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        return "disabled"
    if not (said := os.environ.get("WANDB_MODE")):
        return None
    if said.lower() not in OF_WANDB_MODE:
        raise ConfigError(
            f"WANDB_MODE={said}: none of {', '.join(OF_WANDB_MODE)}; unset it, or say track.mode=offline or online"
        )
    return OF_WANDB_MODE[said.lower()]


def api_key() -> str | None:
    """Of the login that W&B would use."""
    import netrc

    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return None
    found = [known.authenticators(name) for name in (OWN_HOSTS if host() in OWN_HOSTS else (host(),))]
    return next((login[2] for login in found if login), None)


def destination(track: TrackConfig, runs: Path) -> str:
    """Where this command's runs will go, for the plan: nothing is uploaded without having been said."""
    own = " (track.mode)" if track.mode != "auto" else ""
    match resolve_mode(track.mode):
        case "online":
            project = f"{track.entity}/{track.project}" if track.entity else track.project
            why = own or " (you are logged in; track.mode=offline uploads nothing)"
            return f"uploaded to {host()}, project {project}{why}"
        case "offline":
            return f"offline, in {runs / 'wandb'}{own or ' (no login is found; nothing is uploaded)'}"
    return "none" + (own or " (WANDB_MODE, or wandb is not installed)")


def written(runs: Path) -> str | None:
    """The offline runs that are there and the command that sends them, or None."""
    found = list((runs / "wandb").glob("offline-run-*/run-*.wandb"))
    place = shlex.quote(str(runs / "wandb")) + "/offline-run-*"
    return f"W&B runs, offline: {len(found)}; to upload them: wandb sync {place}" if found else None


def server() -> str:
    """Where W&B goes: as the environment says, or what `wandb login --host` has written, or by its own default."""
    settings = configparser.ConfigParser(interpolation=None)
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
        settings.read(folder / "settings")
    written = settings.get("default", "base_url", fallback="")
    return (os.environ.get("WANDB_BASE_URL") or written or _default_server()).rstrip("/")


def _default_server() -> str:
    with contextlib.suppress(ImportError, AttributeError):  # of versions that have another place for it
        from wandb.sdk.lib import urls

        return str(urls.DEFAULT_BASE_URL)
    return f"https://{OWN_HOSTS[-1]}"


def host() -> str:
    return server().partition("://")[2].partition("/")[0]


def wandb_places(runs: Path) -> dict[str, str]:
    """For the workers' environment: where W&B keeps what belongs to no run. What waits to be uploaded lies beside the
    runs and not in the user's home, and so does everything where there is no home that can be written."""
    home, own = os.environ.get("HOME", ""), runs / "wandb" / ".home"  # which is all that W&B's own service reads
    names = ["WANDB_DATA_DIR"]
    if not Path(home).is_dir() or not home or not os.access(home, os.W_OK):
        names += ["WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"]
    return {name: str(own) for name in names if name not in os.environ}


def remember(run: Path, track: TrackConfig) -> None:
    """Say in a run's folder where the runs of its trials go."""
    write_json(run / TRACK, asdict(replace(track, mode=resolve_mode(track.mode))))


def remembered(run: Path) -> TrackConfig | None:
    """None where the run was made before this was written. Raises ConfigError where the file is none of ours."""
    return build(TrackConfig, read_json(run / TRACK)) if (run / TRACK).is_file() else None


def mode_later(track: TrackConfig) -> Settled:
    """Of what a later command tells: as its trials went, unless WANDB_MODE says otherwise by now."""
    return _of_environment() or resolve_mode(track.mode)


def begin_tracking(runs: Path) -> None:
    """Forget what an earlier command fell back to: the network may be there again."""
    (runs / "wandb" / FALLBACK).unlink(missing_ok=True)


def fallen_back(runs: Path) -> str | None:
    """What has failed since `begin_tracking`, in a sentence, or None."""
    with contextlib.suppress(OSError, ValueError):
        return str(read_json(runs / "wandb" / FALLBACK)["text"])
    return None


def mode_now(mode: Settled, folder: Path) -> Settled:
    with contextlib.suppress(OSError, ValueError):
        fallen: Settled = read_json(folder / FALLBACK)["mode"]
        return fallen if mode == "online" else "disabled" if fallen == "disabled" else mode
    return mode


def fall_back(folder: Path, mode: Settled, reason: str) -> str:
    lower = "offline" if mode == "online" else "disabled"
    what = "runs are written offline" if lower == "offline" else "no more runs are written"
    text = f"Weights & Biases did not work {mode}, {what} from here on: {reason}"
    with contextlib.suppress(OSError):
        write_json(folder / FALLBACK, {"mode": lower, "text": text})
    return text
