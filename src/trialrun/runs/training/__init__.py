"""Training runs: plan, data, session, logging and result."""
