"""What a process finds itself in: Python, program, directories, limits."""
