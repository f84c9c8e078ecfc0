"""The rules, pure: no I/O is imported below this package."""
