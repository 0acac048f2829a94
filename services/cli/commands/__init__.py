"""The commands, a module a subject: each declares its arguments, calls what does the work, and prints."""
