"""Files, logs, exit codes, keys and child processes: helpers that know nothing of survival or federations."""
