"""The real jobs, but for guards that pass: for tests of what is trained, in this process or in real workers."""

import stand_in_kinds

from ablations.sweep.jobs import KINDS as REAL

KINDS = REAL | {name: stand_in_kinds.KINDS[name] for name in ("guards", "data_guard")}
