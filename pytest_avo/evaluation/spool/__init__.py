"""Requests and answers as files of a folder, for devices that no network reaches. It judges nothing itself."""
