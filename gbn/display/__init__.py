"""How nets, posteriors and reports draw themselves."""
