"""A worker that has run a trial, or looked at an arm, keeps nothing of it."""

from types import SimpleNamespace

from ablations.sweep import jobs


def test_rings_are_looked_for_behind_every_trial_and_every_guard(monkeypatch):
    done = list[str]()

    def run_trial(*_: object) -> SimpleNamespace:
        done.append("trial")
        return SimpleNamespace(status="complete", metrics={}, reason=None)

    keys = SimpleNamespace(train=SimpleNamespace(threads=1))
    request = SimpleNamespace(trial=SimpleNamespace(keys=keys), keys=keys, seed=1, cache="")
    monkeypatch.setattr(jobs, "build", lambda *_: request)
    monkeypatch.setattr(jobs, "run_trial", run_trial)
    monkeypatch.setattr(jobs, "arm_guards", lambda *_, **__: done.append("guards") or [])
    monkeypatch.setattr(jobs, "open_data", lambda *_: None)
    monkeypatch.setattr("gc.collect", lambda: done.append("freed"))
    jobs.trial({}, lambda event: None)
    jobs.guards({}, lambda event: None)
    assert done == ["trial", "freed", "guards", "freed"]
