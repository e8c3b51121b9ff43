"""Takes personal data out of chat requests and puts it back into the answers."""
