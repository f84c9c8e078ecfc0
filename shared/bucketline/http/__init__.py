"""Requests to addresses that strangers named, without becoming the strangers' way into our network."""
