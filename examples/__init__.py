"""Programs that show the toolkit at work; run them from the project's root."""
