"""The keys of a run and how they are composed: schema, command line, sweep and scale files, a trial's keys."""
