"""Operations of an administrator: API keys, garbage collection, diagnostics and the replay of events."""
