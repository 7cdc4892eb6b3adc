"""From records to a result: statistics, the decision rule, verdicts."""
