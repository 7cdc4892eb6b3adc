"""A stranger's model under the guards that a model without keys, sweeps and data can be put under (docs/audit.md)."""
