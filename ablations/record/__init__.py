"""What a run leaves, typed: plan and state, a trial's record and step log, what guards found."""
