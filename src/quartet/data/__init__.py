"""Images and labels: where they come from, their files, and the splits."""
