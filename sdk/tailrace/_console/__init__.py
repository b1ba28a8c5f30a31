"""What this process prints, on its way past us; and what it leaves when it falls."""
