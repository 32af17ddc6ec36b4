"""Requests to workers, here or on other hosts, and answers back. It judges nothing itself."""
