"""All SQL, a module a subject. A function takes a connection first and never commits."""
