"""What was wrong with a call, from its trace alone: reading, diagnosis, ladder and packet file. Nothing here does I/O but
by a file that it is given.
"""
