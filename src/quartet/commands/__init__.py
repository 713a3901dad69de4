"""What `quartet <command>` runs."""
