"""Whether a published folder is what its manifest says: whole, and changed by nobody since.

A result can be anybody's: a colleague's archive, another machine's copy. What is wrong with it is a list of findings,
each with the name of what it is about, and not the first error that reading it would meet.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ablations.config.trialkeys import TrialKeys, value_of
from ablations.record.documents import PLAN, STATE, ConfirmTrial, PlanDocument, SearchTrial, SweepState, sha_of
from ablations.record.manifest import MANIFEST, Manifest, hashes, strange
from ablations.record.record import RECORDS, Record, read_record
from models.base.reading import one_line
from models.base.typed import ConfigError, build

SHORTENED = "train.token_fraction"
"""The key that an arm's shorter trainings have less of."""
Kind = Literal["missing", "changed", "unknown", "unreadable", "inconsistent"]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was published."""

    kind: Kind
    what: str
    """The file, or the file and its part."""
    said: str

    def __str__(self) -> str:
        return one_line(f"{self.kind}: {self.what}: {self.said}")


def audit(folder: Path) -> list[Finding]:
    """What is wrong with a published folder; empty where nothing is. Raises ConfigError where it is no such folder."""
    for name in (MANIFEST, PLAN, STATE):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder}: has no {name}, so it is no published result (`python -m ablations.report sweep=NAME "
                "publish=true` makes one)"
            )
    manifest = Manifest.read(folder)
    findings = _files(folder, manifest)
    try:
        plan = PlanDocument.read(folder)
    except ConfigError as error:
        return [*findings, Finding("unreadable", PLAN, str(error))]
    try:
        state = SweepState.read(folder)
    except ConfigError as error:
        return [*findings, Finding("unreadable", STATE, str(error))]
    if unplanned := sorted({trial.arm for trial in state.confirm} - (plan.arms.keys() & state.chosen.keys())):
        findings.append(
            Finding("inconsistent", STATE, f"trials of {', '.join(unplanned)}, which no plan or choice knows")
        )
    told = Counter((trial.arm, trial.seed, trial.share) for trial in state.confirm)
    for (arm, seed, _), count in told.items():
        if count > 1:
            findings.append(Finding("inconsistent", STATE, f"has {count} trials of arm {arm}, seed {seed}"))
    for id, count in Counter(trial.id for trial in state.confirm).items():
        if count > 1:
            findings.append(Finding("inconsistent", STATE, f"has trial {id} {count} times"))
    trials: list[SearchTrial | ConfirmTrial] = [*state.search, *state.confirm]
    whose = {f"{RECORDS}/{trial.id}.json": f"arm {trial.arm}, seed {trial.seed}" for trial in trials}
    findings = [replace(f, said=f"{f.said}; {whose[f.what]}") if f.what in whose else f for f in findings]
    return [*findings, *_plan(folder, manifest, plan, state), *_records(folder, manifest, plan, state)]


def check_whole(folder: Path, so: str) -> None:
    """Raise ConfigError where what a published folder's pages are made of is not as it was published; `so`: what is
    not done then. Pages themselves are made anew from the rest."""
    made_of = [f for f in audit(folder) if f.what in (MANIFEST, PLAN, STATE) or f.what.startswith(f"{RECORDS}/")]
    if made_of:
        more = f", and {len(made_of) - 1} more" if len(made_of) > 1 else ""
        raise ConfigError(
            f"{folder}: {made_of[0]}{more}, so {so}; restore it, or see all by `python -m ablations.reproduce {folder} "
            "tables_only=true`"
        )


def _files(folder: Path, manifest: Manifest) -> list[Finding]:
    there = hashes(folder)
    found = [Finding("unknown", name, said) for name, said in strange(folder)]
    absent = sorted(manifest.files.keys() - there.keys())
    found += [Finding("missing", name, "the manifest has it") for name in absent]
    for name, digest in sorted(there.items()):
        if name not in manifest.files:
            found.append(Finding("unknown", name, "the manifest does not have it"))
        elif manifest.files[name] != digest:
            found.append(Finding("changed", name, "its SHA-256 is not the manifest's"))
    return found


def _plan(folder: Path, manifest: Manifest, plan: PlanDocument, state: SweepState) -> list[Finding]:
    own, found = sha_of(folder / PLAN), []
    for name, digest in ((MANIFEST, manifest.plan_sha256), (STATE, state.plan_sha)):
        if digest and digest != own:
            found.append(Finding("inconsistent", PLAN, f"its SHA-256 is not the one in {name}"))
    for name in ("sweep", "scale", "code", "data"):
        if getattr(manifest, name) != getattr(plan, name):
            said = f"{name}={getattr(manifest, name)}, and {PLAN} says {getattr(plan, name)}"
            found.append(Finding("inconsistent", MANIFEST, said))
    return found


def _records(folder: Path, manifest: Manifest, plan: PlanDocument, state: SweepState) -> list[Finding]:
    """Each trial of the state has a record, which is of this trial and of its arm; no record is of another's."""
    found = []
    places = {path.stem: path for path in sorted((folder / RECORDS).glob("*.json")) if path.is_file()}
    confirmed = {trial.id: trial for trial in state.confirm}
    for id in sorted(confirmed.keys() - places.keys()):
        told = f"{RECORDS}/{id}.json" in manifest.files  # as a file that is missing
        if not manifest.partial and not told:
            trial = confirmed[id]
            found.append(Finding("missing", f"{RECORDS}/{id}.json", f"of arm {trial.arm}, seed {trial.seed}"))
    for id, path in places.items():
        name = f"{RECORDS}/{path.name}"
        try:
            record = read_record(path)
        except (ConfigError, TypeError) as error:
            found.append(Finding("unreadable", name, str(error)))
            continue
        if record.id != id:
            found.append(Finding("inconsistent", name, f"is of trial {record.id}"))
        if id in confirmed and record.seed != confirmed[id].seed:
            found.append(Finding("inconsistent", name, f"seed={record.seed}, and {STATE} says {confirmed[id].seed}"))
        try:
            other = _of_another_arm(record, confirmed[id], plan, state) if id in confirmed else None
        except (ConfigError, AttributeError) as error:
            found.append(Finding("unreadable", name, f"its config is no trial's ({error})"))
            continue
        if other is not None:
            found.append(Finding("inconsistent", name, other))
        if id not in state.trial_ids:
            found.append(Finding("unknown", name, f"no trial of {STATE}"))
    return found


def _of_another_arm(record: Record, trial: ConfirmTrial, plan: PlanDocument, state: SweepState) -> str | None:
    """What the record is set to and its arm is not; None where nothing is. Looked at are the keys that any arm sets: an
    arm that does not has the baseline's value, as far as the plan knows that.

    Raises ConfigError where the record's keys are no trial's.
    """
    known = build(TrialKeys, record.config)  # a key that was not there yet had its default
    sets = {name: {**arm.set, **arm.solved, **state.chosen.get(name, {})} for name, arm in plan.arms.items()}
    if trial.arm not in sets:
        return None
    own, base = sets[trial.arm], {} if trial.arm == plan.baseline else sets[plan.baseline]
    for key in sorted({SHORTENED}.union(*sets.values())):
        if key not in own and key in base:
            continue
        value = own[key] if key in own else value_of(plan.keys, key)
        value = value * trial.share if key == SHORTENED else value
        if (there := value_of(known, key)) != value:
            return f"{key}={there}, and {value} in arm {trial.arm}, whose trial {STATE} calls it"
    return None
