"""The processor: turns objects into documents."""
