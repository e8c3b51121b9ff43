"""An OpenAI-compatible chat gateway whose requests and answers pass through plugins."""
