"""What lies on disk and how it is read and written: files, folders, git. No meaning of what they hold."""
