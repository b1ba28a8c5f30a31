"""What happens behind the program: one thread, and the process's end."""
