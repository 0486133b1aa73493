"""What an experiment leaves in storage: its manifest, its lock, and per trial the config, attempts, rows and result."""
